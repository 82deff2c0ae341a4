"""Recipes as files: a strict read that reports every fault with its line, and a write of the resolved recipe.

YAML is read from the parser's events, which carry line numbers, with the core schema of YAML 1.2.2 (section 10.3.2):
no anchors, no tags, no repeated keys. pydantic then checks the values, strictly; its complaints are put in the words of
the recipe and at the lines of the file.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from heft.errors import HeftError
from heft.recipe import EvaluationRequest, Recipe
from heft.recipe_docs import KeyPath, explain, recipe_schema, show

_Checked = TypeVar("_Checked", Recipe, EvaluationRequest)

LIMIT_BYTES = 2**20
MAX_DEPTH = 16

# What a plain scalar means: YAML 1.2.2, section 10.3.2. Anything else is text.
CORE_SCHEMA: tuple[tuple[str, Callable[[str], Any]], ...] = (
    (r"null|Null|NULL|~|", lambda text: None),
    (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    (r"[-+]?[0-9]+", int),
    (r"0o[0-7]+", lambda text: int(text[2:], 8)),
    (r"0x[0-9a-fA-F]+", lambda text: int(text[2:], 16)),
    (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
    (r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", lambda text: float(text.lower().replace(".", ""))),
)


class Place(NamedTuple):
    """Where something was written. Sorts as a person reads: the file from the top, then the overrides in order."""

    source: int
    line: int
    label: str


class Fault(NamedTuple):
    """One thing that is wrong with a recipe."""

    place: Place
    path: KeyPath
    text: str

    def __str__(self) -> str:
        parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path]
        where = f"{''.join(parts).lstrip('.')}: " if parts else ""
        return f"{self.place.label}: {where}{self.text}"


class _Document:
    """The values of a recipe, where each was written, and the faults seen so far."""

    def __init__(self) -> None:
        self.data: Any = {}
        self.places: dict[KeyPath, Place] = {}
        self.faults: list[Fault] = []

    def place_of(self, path: KeyPath) -> Place:
        """The place of the key, or of the closest key above it."""
        return next(self.places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.places)

    def put(self, path: KeyPath, part: "_Document") -> None:
        """Set what was read from another text as the value at `path`, whose parents are mappings."""
        target = self.data
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = part.data
        self.places = {old: place for old, place in self.places.items() if old[: len(path)] != path}
        self.places |= {path + below: place for below, place in part.places.items()}
        self.faults += [fault._replace(path=path + fault.path) for fault in part.faults]


class _Reader:
    """Reads one YAML text into a document."""

    def __init__(self, text: str, place_at: Callable[[int], Place]) -> None:
        self.document = _Document()
        self._place_at = place_at
        self._text = text

    def read(self) -> _Document:
        self.document.places[()] = self._place_at(1)
        try:
            events = YAML(typ="safe", pure=True).parse(self._text)
            next(events)
            event = next(events)
            self.document.data = None
            if not isinstance(event, StreamEndEvent):
                self.document.data = self._value(next(events), events, ())
                next(events)
                if not isinstance(event := next(events), StreamEndEvent):
                    self._fault(event, (), "a second document starts here; a recipe is one document")
        except MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            self._stop(line, f"{error.context or ''} {error.problem}".strip())
        except YAMLError as error:
            line = self._text.count("\n", 0, getattr(error, "position", 0)) + 1
            self._stop(line, f"a control character ({str(error).splitlines()[0]})")
        return self.document

    def _stop(self, line: int, problem: str) -> None:
        hint = "; YAML has no tabs outside text, use spaces" if "\\t" in problem else ""
        self.document.data = None
        self.document.faults = [Fault(self._place_at(line), (), f"not readable as YAML: {problem}{hint}")]

    def _fault(self, event: Any, path: KeyPath, text: str) -> None:
        self.document.faults.append(Fault(self._place_at(event.start_mark.line + 1), path, text))

    def _value(self, event: Any, events: Iterator, path: KeyPath) -> Any:
        if isinstance(event, AliasEvent) or event.anchor or event.tag:
            self._fault(event, path, "anchors (&), aliases (*) and tags (!) are not read; write the value out")
        if isinstance(event, AliasEvent):
            return None
        if isinstance(event, ScalarEvent):
            return self._scalar(event, path)
        if len(path) >= MAX_DEPTH:
            raise MarkedYAMLError(problem=f"more than {MAX_DEPTH} levels deep", problem_mark=event.start_mark)
        if isinstance(event, SequenceStartEvent):
            return self._list(events, path)
        return self._mapping(events, path)

    def _scalar(self, event: ScalarEvent, path: KeyPath) -> Any:
        try:
            for pattern, convert in CORE_SCHEMA if event.style is None else ():
                if re.fullmatch(pattern, event.value):
                    return convert(event.value)
        except ValueError:
            self._fault(event, path, f"a number of {len(event.value)} digits is too long")
        return event.value

    def _list(self, events: Iterator, path: KeyPath) -> list:
        values: list[Any] = []
        while not isinstance(event := next(events), SequenceEndEvent):
            here = (*path, len(values))
            self.document.places[here] = self._place_at(event.start_mark.line + 1)
            values.append(self._value(event, events, here))
        return values

    def _mapping(self, events: Iterator, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(events), MappingEndEvent):
            key = self._value(event, events, path)
            place = self._place_at(event.start_mark.line + 1)
            if not isinstance(key, str):
                self._fault(event, path, f"a key must be text; got {show(key)}, put it in quotes if it is meant")
                key = str(key)
            here = (*path, key)
            if key in values:
                self._fault(event, here, f"repeated; it was first given at {self.document.places[here].label}")
                self._value(next(events), events, here)
                continue
            self.document.places[here] = place
            values[key] = self._value(next(events), events, here)
        return values


def _override(document: _Document, text: str, source: int) -> None:
    """Apply one `key.path=value`; what is wrong with it becomes a fault of the document."""
    place = Place(source, 0, f"--set {text}")
    key, equals, value = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        document.faults.append(Fault(place, (), "expected key=value, such as stages.fine.rank=4"))
        return
    target = document.data
    for depth, part in enumerate(path[:-1], start=1):
        if target.get(part) is None:
            target[part] = {}
            document.places[path[:depth]] = place
        target = target[part]
        if not isinstance(target, dict):
            problem = f"not a mapping, so it has no key {path[depth]!r}; it is {show(target)} and is set whole"
            document.faults.append(Fault(place, path[:depth], problem))
            return
    document.put(path, _Reader(value, lambda line: place).read())


def _validate(document: _Document, kind: type[_Checked]) -> _Checked:
    """Check the values; what is wrong with them, one fault for each key at most, is raised with all faults so far."""
    checked = _check(document, kind) if isinstance(document.data, dict) else None
    if checked is None or document.faults:
        raise HeftError("\n".join(str(fault) for fault in sorted(document.faults, key=lambda fault: fault.place)))
    return checked


def _check(document: _Document, kind: type[_Checked]) -> _Checked | None:
    try:
        return kind.model_validate(document.data, strict=True)
    except ValidationError as error:
        seen = {fault.path for fault in document.faults}
        for details in error.errors(include_url=False):
            path, text = explain(details)
            # A default that waits for the value of a key at fault is no fault of its own.
            if path not in seen and details["type"] != "default_factory_not_called":
                seen.add(path)
                document.faults.append(Fault(document.place_of(path), path, text))
    return None


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT_BYTES + 1)
    except FileNotFoundError:
        raise HeftError(f"{path}: no such file; expected a recipe, such as recipes/quickstart.yaml") from None
    except OSError as error:
        raise HeftError(f"{path}: cannot be read ({error.strerror}); expected a recipe, a YAML file") from error
    if len(content) > LIMIT_BYTES:
        raise HeftError(f"{path}: larger than {LIMIT_BYTES} bytes; expected a recipe, a YAML file of some dozen lines")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise HeftError(f"{path}:{line}: not UTF-8 ({error.reason}); save the recipe as UTF-8 text") from None


def load_recipe(path: str | Path, overrides: Sequence[str] = (), output: str | None = None) -> Recipe:
    """Read a recipe, apply overrides in order, check everything.

    Args:
        path: a YAML file.
        overrides: `key.path=value` each, the value as YAML, such as `stages.fine.rank=4`.
        output: replaces the recipe's `output`.

    Raises:
        HeftError: the file cannot be read, or anything in it or in the overrides is wrong; the message has a line for
            each fault, in the order in which they were written.
    """
    document = _Reader(_read_text(Path(path)), lambda line: Place(0, line, f"{path}:{line}")).read()
    if not document.faults and not isinstance(document.data, dict):
        found = "is empty" if document.data is None else f"holds {show(document.data)}"
        text = f"the recipe {found}; expected a mapping with at least the keys {', '.join(recipe_schema()['required'])}"
        document.faults.append(Fault(document.place_of(()), (), text))
    if isinstance(document.data, dict):
        for number, override in enumerate(overrides, start=1):
            _override(document, override, number)
        if output is not None:
            place = Place(len(overrides) + 1, 0, f"--output {output}")
            part = _Document()
            part.data, part.places = output, {(): place}
            document.put(("output",), part)
    return _validate(document, Recipe)


def evaluation_request(values: dict[str, Any], overrides: Sequence[str] = ()) -> EvaluationRequest:
    """What `heft eval` is told: values from the command line or an adapter directory, then overrides as in a recipe.

    Raises:
        HeftError: anything in them is wrong; the message has a line for each fault.
    """
    document = _Document()
    document.data, document.places = values, {(): Place(0, 0, "heft eval")}
    for number, override in enumerate(overrides, start=1):
        _override(document, override, number)
    return _validate(document, EvaluationRequest)


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe as YAML with every default written out; reading it back gives an equal recipe."""
    data = recipe.model_dump(mode="json")
    data["task"] = {"name": data["task"]["name"]} | data["task"]
    data["stages"] = {name: {"method": stage["method"]} | stage for name, stage in data["stages"].items()}
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    text = io.StringIO()
    yaml.dump(data, text)
    return text.getvalue()
