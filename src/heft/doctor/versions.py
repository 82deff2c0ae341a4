"""Python, heft, and every package that heft asks for: there, in range, and importable."""

import importlib.metadata
import platform
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from heft.doctor.line import Line, fault, note, ok
from heft.doctor.probing import Facts

TOPIC = "versions"
_CHECKOUT = Path(__file__).parents[3] / "pyproject.toml"


@dataclass(frozen=True)
class Requirement:
    """A package that heft asks for, such as `peft` with `>=0.21,<0.22`."""

    package: str
    range: str

    @property
    def module(self) -> str:
        """What is imported; for heft's own requirements the package's name."""
        return self.package.replace("-", "_")

    @property
    def install(self) -> str:
        """The command that puts a right version there."""
        return f"pip install '{self.package}{self.range}'"


def requirements() -> tuple[str, list[Requirement]]:
    """The range of Python and the packages, from the checkout that heft runs from, else from its installation."""
    if _CHECKOUT.is_file():
        project = tomllib.loads(_CHECKOUT.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == "heft":
            return project["requires-python"], [_parsed(line) for line in project["dependencies"]]
    metadata = importlib.metadata.metadata("heft")
    lines = [line for line in importlib.metadata.requires("heft") or [] if "extra ==" not in line]
    return metadata["Requires-Python"], [_parsed(line) for line in lines]


def _parsed(line: str) -> Requirement:
    match = re.match(r"\s*([A-Za-z0-9._-]+)\s*\(?([^;)]*)", line)
    return Requirement(match[1], match[2].replace(" ", ""))


def required_modules() -> list[str]:
    """Modules whose import is tried; none where it is not known what heft asks for."""
    try:
        return [requirement.module for requirement in requirements()[1]]
    except importlib.metadata.PackageNotFoundError:
        return []


def check_versions(facts: Facts) -> list[Line]:
    """Python and heft, then a line a package."""
    from heft import __version__

    try:
        python, packages = requirements()
    except importlib.metadata.PackageNotFoundError:
        text = f"heft {__version__} is not installed, so what it asks for is not known"
        return [fault(TOPIC, text, "pip install -e . in heft's folder, or pip install heft")]
    contains, lines = _range_check(), [ok(TOPIC, f"heft {__version__}")]
    have = platform.python_version()
    if contains is None:
        lines.append(
            note(TOPIC, "versions are not held against their ranges: packaging is missing", "pip install packaging")
        )
    if contains is not None and not contains(python, have):
        lines.append(fault(TOPIC, f"Python {have}, heft asks for {python}", f"make an environment of Python {python}"))
    else:
        lines.append(ok(TOPIC, f"Python {have} ({python})"))
    return lines + [_package(requirement, facts, contains) for requirement in packages]


def _package(wanted: Requirement, facts: Facts, contains: Callable[[str, str], bool] | None) -> Line:
    try:
        have = importlib.metadata.version(wanted.package)
    except importlib.metadata.PackageNotFoundError:
        return fault(TOPIC, f"{wanted.package} is missing (heft asks for {wanted.range})", wanted.install)
    if contains is not None and not contains(wanted.range, have):
        return fault(TOPIC, f"{wanted.package} {have}, heft asks for {wanted.range}", wanted.install)
    error = facts.errors.get(wanted.module)
    if error is not None:
        again = f"pip install --force-reinstall --no-deps '{wanted.package}=={have}', or a build for this machine"
        return fault(TOPIC, f"{wanted.package} {have} is installed and cannot be imported: {error}", again)
    return ok(TOPIC, f"{wanted.package} {have} ({wanted.range})")


def _range_check() -> Callable[[str, str], bool] | None:
    try:
        from packaging.specifiers import SpecifierSet
    except Exception:  # missing or broken: versions are then shown unchecked
        return None
    return lambda span, version: SpecifierSet(span).contains(version, prereleases=True)
