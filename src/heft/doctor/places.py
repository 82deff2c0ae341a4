"""Where heft writes and keeps: runs, temporary files, converted models, the Hub's cache."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from heft.builtin import EMBEDDED, cache_dir
from heft.doctor.line import Line, fault, in_gigabytes, note, ok
from heft.storage.reading import nearest_existing

TOO_LITTLE_DISK = 1e9
LITTLE_DISK = 5e9


def check_places() -> list[Line]:
    """Each place that is written to: can it be, and how much fits."""
    lines = [
        _place("runs", Path("runs").resolve(), "--output DIR"),
        _place("heft's cache", cache_dir(), "HEFT_CACHE=DIR"),
        _place("the Hub's cache", hub_cache(), "HF_HOME=DIR"),
    ]
    try:
        lines.append(_place("temporary files", Path(tempfile.gettempdir()), "TMPDIR=DIR"))
    except OSError as error:
        lines.append(fault("disk", f"there is no folder for temporary files: {error}", "export TMPDIR=DIR, a folder"))
    return lines


def hub_cache() -> Path:
    """Where models and data sets from the Hub are kept, by the Hub's own variables."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("HF_HOME", cache / "huggingface")).expanduser() / "hub"


def _place(what: str, path: Path, elsewhere: str) -> Line:
    """A folder that is there or would be made; `elsewhere` is how to name another one."""
    there = nearest_existing(path)
    try:
        path.exists()
    except OSError as error:
        return fault("disk", f"{what}: {path} cannot be: {error.strerror}", elsewhere)
    if not there.is_dir():
        return fault("disk", f"{what}: {path} cannot be made, {there} is a file", f"remove that file, or {elsewhere}")
    if not os.access(there, os.W_OK | os.X_OK):
        return fault("disk", f"{what}: {there} cannot be written to", f"see its owner and rights, or {elsewhere}")
    free = shutil.disk_usage(there).free
    text = f"{what}: {path}, {in_gigabytes(free)} free"
    if free < TOO_LITTLE_DISK:
        return fault("disk", text, f"make room, or {elsewhere} on another disk")
    if free < LITTLE_DISK:
        return note("disk", f"{text}: enough for runs, not for large models", f"{elsewhere} on another disk")
    return ok("disk", text)


def check_caches() -> list[Line]:
    """What is kept already."""
    return [*(line for name in EMBEDDED for line in _embedded(name)), _hub_models()]


def _embedded(name: str) -> list[Line]:
    """Whether an embedded model has been converted, whole, and what a conversion that broke off left behind."""
    short, folder = name.partition(":")[2], cache_dir() / "models"
    found = sorted(folder.glob(f"{short}-*")) if folder.is_dir() else []
    whole = [path for path in found if re.fullmatch(f"{re.escape(short)}-[0-9a-f]{{16}}", path.name)]
    lines = []
    for path in whole:
        if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
            lines.append(ok("cache", f"{name} is converted: {path}, {in_gigabytes(_size(path))}"))
        else:
            lines.append(fault("cache", f"{name}: {path} lacks its weights or its config", f"remove {path}"))
    if not whole:
        lines.append(ok("cache", f"{name} is not converted yet; its first use does that, in about 40 seconds"))
    left = [path for path in found if path not in whole]
    if left:
        size = in_gigabytes(sum(map(_size, left)))
        text = f"{len(left)} conversions of {name} are under way or broke off: {size} in {folder}"
        lines.append(note("cache", text, f"if none is under way, remove {', '.join(map(str, left))}"))
    return lines


def _hub_models() -> Line:
    folder = hub_cache()
    kept = sorted(folder.glob("models--*")) + sorted(folder.glob("datasets--*")) if folder.is_dir() else []
    size = sum(_size(path / "blobs") for path in kept)  # snapshots are links to blobs
    return ok("cache", f"the Hub's: {len(kept)} models and data sets, {in_gigabytes(size)} in {folder}")


def _size(folder: Path) -> int:
    files = folder.rglob("*") if folder.is_dir() else ()
    return sum(path.stat().st_size for path in files if path.is_file() and not path.is_symlink())
