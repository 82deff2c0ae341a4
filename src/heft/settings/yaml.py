"""YAML read strictly, with the line at which everything was written.

It is read from the parser's events, which carry line numbers, with the core schema of YAML 1.2.2 (section 10.3.2): no
anchors, no tags, no repeated keys, a bounded depth and size.
"""

import os
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

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
from heft.settings.words import KeyPath, show
from heft.storage.reading import FileFault, read_bytes

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
    """One thing that is wrong with a file of settings."""

    place: Place
    path: KeyPath
    text: str

    def __str__(self) -> str:
        parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path]
        where = f"{''.join(parts).lstrip('.')}: " if parts else ""
        return f"{self.place.label}: {where}{self.text}"


class Document:
    """The values of a file of settings, where each was written, and the faults seen so far."""

    def __init__(self, data: Any = None, places: dict[KeyPath, Place] | None = None) -> None:
        self.data = data
        self.places = places or {}
        self.faults: list[Fault] = []

    def place_of(self, path: KeyPath) -> Place:
        """The place of the key, or of the closest key above it."""
        return next(self.places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.places)

    def part(self, path: KeyPath, place_of: Callable[[Place], Place] = lambda place: place) -> "Document":
        """What was read at `path`, as a document of its own; `place_of` says where it counts as written."""
        data = self.data
        for key in path:
            data = data[key]
        data = deepcopy(data)
        below = {key[len(path) :]: place_of(place) for key, place in self.places.items() if key[: len(path)] == path}
        return Document(data, below)

    def put(self, path: KeyPath, part: "Document") -> None:
        """Set what was read from another text as the value at `path`, whose parents are mappings."""
        target = self.data
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = part.data
        self.places = {old: place for old, place in self.places.items() if old[: len(path)] != path}
        self.places |= {path + below: place for below, place in part.places.items()}
        self.faults += [fault._replace(path=path + fault.path) for fault in part.faults]


def read_yaml(text: str, place_at: Callable[[int], Place], what: str = "value") -> Document:
    """Read one YAML text; what is wrong with it becomes faults of the document, whose data may be anything.

    Args:
        text: YAML.
        place_at: the place of a line, counted from 1.
        what: the kind of thing that it should be, for messages.
    """
    return _Reader(text, place_at, what).read()


def read_yaml_file(path: Path, what: str, example: str, source: int = 0) -> Document:
    """Read a YAML file as `read_yaml` does; `source` sorts its faults among those of other sources.

    Raises:
        HeftError: the file cannot be read, is too large or is not UTF-8.
    """
    try:
        content = read_bytes(path, LIMIT_BYTES)
    except FileFault as error:
        if not os.path.exists(path):
            raise HeftError(f"{path}: no such file; expected a {what}, such as {example}") from None
        raise HeftError(
            f"{path}: cannot be read, {error.reason}; expected a {what}, a YAML file of some dozen lines"
        ) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise HeftError(f"{path}:{line}: not UTF-8 ({error.reason}); save the {what} as UTF-8 text") from None
    return read_yaml(text, lambda line: Place(source, line, f"{path}:{line}"), what)


class _Reader:
    """Reads one YAML text into a document."""

    def __init__(self, text: str, place_at: Callable[[int], Place], what: str) -> None:
        self.document = Document()
        self._place_at = place_at
        self._text, self._what = text, what

    def read(self) -> Document:
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
                    self._fault(event, (), f"a second document starts here; a {self._what} is one document")
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
