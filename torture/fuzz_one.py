"""One kind of input, fuzzed in a process of its own: `python fuzz_one.py KIND RUNS FOLDER SEED`.

Atheris (libFuzzer for Python) looks for inputs that reach code which no input has reached. Faults are counted and kept,
one input for each place in the code, and the search goes on; they are told as JSON in FOLDER/faults.json.
"""

import json
import os
import random
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

import atheris

READERS = ("adapters.directory", "adapters.manifest", "adapters.safety", "adapters.weights", "tasks", "recipe.files")
READERS += ("compare.comparison", "compare.table", "study.files", "results.metrics")
with atheris.instrument_imports(include=["heft", "ruamel"]):  # what is not imported here is not looked into
    for name in READERS:
        import_module(f"heft.{name}")
    from mutate import mutate
    from targets import TARGETS

    from heft.errors import HeftError

SLOW_SECONDS = 2.0
"""Processor time that an input may take."""
MOST_BYTES = 8192
_WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_NEVER = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class", "socket.connect"}
_NEVER |= {"socket.getaddrinfo", "socket.gethostbyname", "os.fork", "shutil.rmtree", "ftplib.connect", "urllib.Request"}


class Forbidden(BaseException):
    """Something happened that reading a file has no right to; no handler of ordinary errors hides it."""


class Watch:
    """Told by the interpreter of everything that touches the outside (PEP 578); speaks up while an input is read."""

    def __init__(self, folder: Path):
        self.on, self.seen, self._inside = False, [], os.fspath(folder) + os.sep
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            if writes and not self._is_inside(path):
                self._stop(f"write to {path!r}")
        elif event in _NEVER or (event in _WRITES and not self._is_inside(arguments[0])):
            self._stop(f"{event} {arguments!r}"[:200])

    def _is_inside(self, path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return os.path.realpath(os.fsdecode(path)).startswith(self._inside)

    def _stop(self, what: str) -> None:
        self.on = False
        self.seen.append(what)
        raise Forbidden(what)


class Fuzzer:
    """Runs inputs and keeps one for each fault."""

    def __init__(self, kind: str, runs: int, folder: Path, seed: int):
        self.kind, self.runs, self.folder, self.random = kind, runs, folder, random.Random(seed)
        self.inside = folder / "input"
        self.inside.mkdir()
        self.target = TARGETS[kind](self.inside)
        self.seeds = self.target.seeds()
        self.watch = Watch(self.inside)
        self.faults: dict[str, dict] = {}
        self.tried = self.accepted = 0

    def __call__(self, data: bytes) -> None:
        """One input."""
        self.tried += 1
        started = time.thread_time()
        try:
            self.watch.on = True
            self.target.run(data)
            self.watch.on = False
            self.accepted += 1
        except HeftError as error:
            self.watch.on = False
            if not str(error).strip():
                self.keep("a HeftError that says nothing", data, "")
        except (Exception, Forbidden, SystemExit) as error:
            self.watch.on = False
            self.keep(_place(error), data, "".join(traceback.format_exception(error))[-3000:])
        if time.thread_time() - started > SLOW_SECONDS:
            self.keep("too slow", data, f"{time.thread_time() - started:.1f} s of processor time")
        if self.tried % 1000 == 0 or self.tried >= self.runs:  # libFuzzer ends the process without a farewell
            self.write()

    def keep(self, place: str, data: bytes, told: str) -> None:
        """Remember a fault by where it happened, and the shortest input for it."""
        known = self.faults.get(place)
        count = known["count"] + 1 if known else 1
        if known is None or len(data) < known["size"]:
            known = {"size": len(data), "input": data.hex(), "told": told}
        self.faults[place] = known | {"count": count}
        if count == 1:
            self.write()

    def write(self) -> None:
        """Tell the parent process."""
        told = {"tried": self.tried, "accepted": self.accepted, "faults": self.faults}
        (self.folder / "faults.partial").write_text(json.dumps(told))
        (self.folder / "faults.partial").rename(self.folder / "faults.json")

    def mutator(self, data: bytes, most: int, seed: int) -> bytes:
        """Half of the changes know the format, the others are libFuzzer's; some start from a valid input again."""
        self.random.seed(seed)
        data = self.random.choice(self.seeds) if self.random.random() < 0.25 else data
        changed = mutate(data, most, self.random, self.kind) if self.random.random() < 0.6 else None
        return atheris.Mutate(data, most) if changed is None else changed


def _place(error: BaseException) -> str:
    """The kind of an error and the last line of heft that it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if f"{os.sep}heft{os.sep}" in frame.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "torture"
    what = str(error)[:60] if isinstance(error, Forbidden) else type(error).__name__
    return f"{what} in {where}"


def main() -> None:
    """Fuzz, and leave what was found in the folder."""
    kind, runs, folder, seed = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    fuzzer = Fuzzer(kind, runs, folder, seed)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(fuzzer.seeds):
        (corpus / f"seed-{number}").write_bytes(data)
        fuzzer.target.run(data)  # a seed that is refused would be a fault of this harness
    options = [
        f"-runs={runs}",
        f"-seed={seed or 1}",
        f"-max_len={MOST_BYTES}",
        "-timeout=120",
        "-rss_limit_mb=4096",
        "-report_slow_units=60",
        "-reduce_inputs=0",  # the smallest input that reaches a place has little to change
    ]
    options += [f"-artifact_prefix={folder}/stopped-", "-print_final_stats=1", "-len_control=0", "-verbosity=1"]
    atheris.Setup([sys.argv[0], *options, os.fspath(corpus)], fuzzer, custom_mutator=fuzzer.mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
