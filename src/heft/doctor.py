"""`heft doctor`: what of this machine heft depends on, each with a verdict, and what to do where it is bad.

Needs nothing but Python, so that it runs where torch or anything else is broken or missing: `python -m heft.doctor
[--online] [--json]` needs not even the command line's own packages.
"""

import http.client
import importlib.metadata
import json
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from heft import __version__
from heft.builtin import BOOLQ_WHEEL, EMBEDDED, cache_dir
from heft.doctor_child import FAULT, NOTE, OK, Facts, Line, check_device, probe
from heft.runtime.machine import available_memory, usable_cores
from heft.storage.reading import nearest_existing
from heft.text.units import in_bytes

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
HUB_SECONDS = 10
TOO_LITTLE_MEMORY, LITTLE_MEMORY = 1.5e9, 5e9
"""A stage on the embedded model takes about 4 GB at its defaults (docs/plan.md)."""
TOO_LITTLE_DISK, LITTLE_DISK = 1e9, 5e9


def examine(online: bool = False) -> list[Line]:
    """Look at this machine, topic after topic; `online` asks the Hub if it can be reached, else nothing is sent."""
    facts = probe(list(requirements()[1]))
    checks: dict[str, Callable[[], Iterator[Line]]] = {
        "versions": lambda: check_versions(facts),
        "extras": lambda: check_extras(facts),
        "device": lambda: check_device(facts),
        "threads": lambda: check_threads(facts),
        "memory": check_memory,
        "disk": check_disk,
        "hub": lambda: check_hub(online),
    }
    lines: list[Line] = []
    for topic, check in checks.items():
        try:
            for line in check():
                lines.append(replace(line, topic=topic))
        except Exception as error:  # the others may still say what is wrong
            text = f"could not be examined: {type(error).__name__}: {error}"
            lines.append(Line(FAULT, text, "report this to heft", topic))
    return lines


def requirements() -> tuple[str | None, dict[str, str]]:
    """The range of Python, and package → range of versions, from heft's installation; None where it has none."""
    try:
        python = importlib.metadata.metadata("heft")["Requires-Python"]
        lines = [line for line in importlib.metadata.requires("heft") or [] if "extra ==" not in line]
    except importlib.metadata.PackageNotFoundError:
        return None, {}
    found = [re.match(r"\s*([A-Za-z0-9._-]+)\s*\(?([^;)]*)", line) for line in lines]
    return python, {match[1]: match[2].replace(" ", "") for match in found}


def check_versions(facts: Facts) -> Iterator[Line]:
    """heft, Python, then a line per package."""
    python, packages = requirements()
    if python is None:
        advice = "pip install -e . in heft's folder"
        yield Line(FAULT, f"heft {__version__} is not installed, so what it requires is not known", advice)
        return
    yield Line(OK, f"heft {__version__}")
    try:
        from packaging.specifiers import SpecifierSet
    except Exception:  # missing or broken: versions are then shown unchecked
        SpecifierSet = None
        yield Line(NOTE, "version ranges are not checked: packaging is missing", "pip install packaging")

    def is_out(span: str, version: str) -> bool:
        return SpecifierSet is not None and not SpecifierSet(span).contains(version, prereleases=True)

    have = platform.python_version()
    if is_out(python, have):
        yield Line(FAULT, f"Python {have}, heft requires {python}", f"make an environment of Python {python}")
    else:
        yield Line(OK, f"Python {have} ({python})")
    for package, span in packages.items():
        yield _package(package, span, facts.errors.get(package.replace("-", "_")), is_out)


def _package(package: str, span: str, error: str | None, is_out: Callable[[str, str], bool]) -> Line:
    have, install = _version(package), f"pip install '{package}{span}'"
    if have is None:
        return Line(FAULT, f"{package} is missing (heft requires {span})", install)
    if is_out(span, have):
        return Line(FAULT, f"{package} {have}, heft requires {span}", install)
    if error is not None:
        again = f"pip install --force-reinstall --no-deps '{package}=={have}', or a build for this machine"
        return Line(FAULT, f"{package} {have} is installed and cannot be imported: {error}", again)
    return Line(OK, f"{package} {have} ({span})")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_extras(facts: Facts) -> Iterator[Line]:
    """What heft can use and does not need."""
    wheels = [(wheel, f"{name}, the default model, needs no Hub") for name, wheel in EMBEDDED.items()]
    for wheel, use in [*wheels, (BOOLQ_WHEEL, "BoolQ needs no Hub (source: wheel)")]:
        have = _version(wheel.package)
        if have == wheel.version:
            yield Line(OK, f"{wheel.package} {have}: {use}")
        else:
            seen = "is missing" if have is None else f"{have} is installed, heft uses {wheel.version}"
            yield Line(NOTE, f"{wheel.package} {seen}; with it, {use}", wheel.install)
    have = _version("bitsandbytes")
    if have is None and facts.torch.get("cuda"):
        yield Line(NOTE, "bitsandbytes is missing: no 8bit or 4bit quantization", "pip install bitsandbytes")
    elif have is not None:
        yield Line(OK, f"bitsandbytes {have}: 8bit and 4bit quantization")


def check_threads(facts: Facts) -> Iterator[Line]:
    """Threads that torch computes with against the cores that this process may use."""
    cores, threads, asked = usable_cores(), facts.torch.get("threads"), os.environ.get("OMP_NUM_THREADS")
    advice = f"export OMP_NUM_THREADS={cores}"
    if asked is not None and not re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", asked):
        yield Line(FAULT, f"OMP_NUM_THREADS is {asked!r}, expected a number", advice)
        return
    if threads is None:
        yield Line(NOTE, f"{cores} cores; torch cannot be imported, see versions")
        return
    text = f"torch computes with {threads} threads on {cores} usable cores"
    if threads > cores:
        yield Line(FAULT, f"{text}: they wait for one another", advice)
    else:
        yield Line(*((NOTE, text, advice) if 2 * threads < cores else (OK, text)))


def check_memory() -> Iterator[Line]:
    """Main memory that is still available."""
    free = available_memory()
    if free is None:
        yield Line(NOTE, "how much is free is not known here")
        return
    text = f"{in_bytes(free)} available"
    if free < TOO_LITTLE_MEMORY:
        yield Line(FAULT, f"{text}: too little to train even the embedded model", "end other programs")
    elif free < LITTLE_MEMORY:
        advice = "smaller micro_batch_size, gradient_checkpointing: true; heft plan says what a recipe takes"
        yield Line(NOTE, f"{text}: the embedded model fits, larger ones may not", advice)
    else:
        yield Line(OK, text)


def check_disk() -> Iterator[Line]:
    """Each folder that is written to: can it be, how much is in the caches, and how much fits."""
    yield _folder("runs", Path("runs").resolve(), "--output DIR")
    yield _folder("heft's cache", cache_dir(), "HEFT_CACHE=DIR", is_cache=True)
    yield _folder("the Hub's cache", hub_cache(), "HF_HOME=DIR", is_cache=True)
    try:
        yield _folder("temporary files", Path(tempfile.gettempdir()), "TMPDIR=DIR")
    except OSError as error:
        yield Line(FAULT, f"there is no folder for temporary files: {error}", "export TMPDIR=DIR, a folder")


def hub_cache() -> Path:
    """Where models and data sets from the Hub are cached, by the Hub's own variables."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("HF_HOME", cache / "huggingface")).expanduser() / "hub"


def _folder(what: str, path: Path, elsewhere: str, is_cache: bool = False) -> Line:
    """A folder that is there or would be made; `elsewhere` is how to name another one."""
    try:
        path.exists()
    except OSError as error:
        return Line(FAULT, f"{what}: {path} is not possible: {error.strerror}", elsewhere)
    there = nearest_existing(path)
    if not there.is_dir():
        return Line(FAULT, f"{what}: {path} cannot be made, {there} is a file", f"remove that file, or {elsewhere}")
    if not os.access(there, os.W_OK | os.X_OK):
        return Line(FAULT, f"{what}: {there} cannot be written to", f"check its owner and mode, or {elsewhere}")
    free = shutil.disk_usage(there).free
    used = f"{in_bytes(_size(path))} used, " if is_cache else ""
    text = f"{what}: {path}, {used}{in_bytes(free)} free"
    if free < TOO_LITTLE_DISK:
        return Line(FAULT, text, f"make room, or {elsewhere} on another disk")
    if free < LITTLE_DISK:
        return Line(NOTE, f"{text}: enough for runs, not for large models", f"{elsewhere} on another disk")
    return Line(OK, text)


def _size(folder: Path) -> int:
    """Bytes of the files that are in a folder and can be looked at."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # another user's, or gone meanwhile
                about = os.lstat(os.path.join(where, name))
                total += about.st_size if stat.S_ISREG(about.st_mode) else 0
    return total


def check_hub(online: bool) -> Iterator[Line]:
    """What the environment says of the Hub; with `online`, whether it answers."""
    offline = [name for name in OFFLINE if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}]
    if offline:
        text = f"offline, by {' and '.join(offline)}: models and data come from folders, wheels and the Hub's cache"
        yield Line(NOTE, text, f"unset {' '.join(offline)} to load from the Hub")
    else:
        yield Line(OK, "models and data may come from the Hub")
    if online:
        yield _hub_answer(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")


def _hub_answer(endpoint: str) -> Line:
    advice = "check network and proxy (HTTPS_PROXY); or work offline: local folders, embedded:, source: wheel"
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=HUB_SECONDS):
            return Line(OK, f"{endpoint} answers")
    except urllib.error.HTTPError as error:
        state = OK if error.code < 500 else FAULT  # a refusal is an answer
        return Line(state, f"{endpoint} answers, with status {error.code}", None if state == OK else advice)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Line(FAULT, f"{endpoint} cannot be reached: {str(error).strip() or type(error).__name__}", advice)


def has_fault(lines: Sequence[Line]) -> bool:
    """Whether any line is a fault."""
    return any(line.state == FAULT for line in lines)


def as_text(lines: Sequence[Line]) -> str:
    """All lines for people, with a count at the end."""
    counts, shown = Counter(line.state for line in lines), []
    for line in lines:
        shown.append(f"{line.state:<5} {line.topic}: {line.text}")
        shown += [f"      do: {line.advice}"] if line.advice else []
    return "\n".join([*shown, "", f"{counts[OK]} ok, {counts[NOTE]} notes, {counts[FAULT]} faults"])


def as_json(lines: Sequence[Line]) -> str:
    """All lines for programs."""
    return json.dumps({"ok": not has_fault(lines), "lines": [asdict(line) for line in lines]}, indent=2)


if __name__ == "__main__":
    found = examine("--online" in sys.argv[1:])
    print(as_json(found) if "--json" in sys.argv[1:] else as_text(found))
    sys.exit(1 if has_fault(found) else 0)
