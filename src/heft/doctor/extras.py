"""What heft can use and does not need: absent is worth a note, present and unusable a fault."""

import importlib.metadata
import os

from heft.builtin import EMBEDDED
from heft.doctor.line import Line, fault, note, ok
from heft.doctor.probing import Facts
from heft.tasks.sources import WHEEL, WHEEL_INSTALL, WHEEL_VERSION

TOPIC = "extras"


def check_extras(facts: Facts) -> list[Line]:
    """The embedded model's wheel, BoolQ's wheel, quantisation, plots, the browser tests."""
    lines = [_embedded(name, model.package.replace("_", "-"), model.install) for name, model in EMBEDDED.items()]
    return [*lines, _boolq(), _quantization(facts), _plots(facts), _browser()]


def _embedded(name: str, package: str, install: str) -> Line:
    have, wanted = _version(package), install.rpartition("==")[2]
    if have is None:
        return note(
            TOPIC, f"{package} is missing: {name}, the model where a recipe names none, cannot be used", install
        )
    if have != wanted:
        return note(TOPIC, f"{package} {have} for {name}; heft was tried with {wanted}", install)
    return ok(TOPIC, f"{package} {have}: {name} needs no Hub")


def _boolq() -> Line:
    have = _version(WHEEL)
    if have is None:
        return note(TOPIC, f"{WHEEL} is missing: BoolQ comes from the Hub or a folder, not from a wheel", WHEEL_INSTALL)
    if have != WHEEL_VERSION:
        return fault(TOPIC, f"{WHEEL} {have}; source: wheel reads {WHEEL_VERSION} only", WHEEL_INSTALL)
    return ok(TOPIC, f"{WHEEL} {have}: BoolQ needs no Hub (source: wheel)")


def _quantization(facts: Facts) -> Line:
    have, cuda = _version("bitsandbytes"), bool(facts.torch.get("cuda"))
    if have is not None:
        return ok(TOPIC, f"bitsandbytes {have}: quantization {'works' if cuda else 'needs a CUDA device beside it'}")
    if cuda:
        return note(TOPIC, "bitsandbytes is missing: no quantization 8bit or 4bit", "pip install 'heft[quantization]'")
    return ok(TOPIC, "bitsandbytes is missing, and without a CUDA device there is no use for it")


def _plots(facts: Facts) -> Line:
    backend = os.environ.get("MPLBACKEND")
    if facts.errors.get("matplotlib") is not None and backend:
        return fault(TOPIC, f"matplotlib cannot be imported with MPLBACKEND={backend}", "unset MPLBACKEND")
    return ok(TOPIC, f"plots are drawn to files, without a screen (MPLBACKEND {backend or 'is not set'})")


def _browser() -> Line:
    have = _version("playwright")
    seen = "is missing" if have is None else f"{have} is there"
    return ok(TOPIC, f"playwright {seen}: only make test-page needs it and a Chromium; reports need neither")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
