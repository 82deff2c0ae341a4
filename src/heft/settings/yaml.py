"""YAML read strictly, with the line at which everything was written.

ruamel.yaml composes nodes, which carry line numbers and the tags of YAML 1.2: no anchors, no tags of one's own, no
repeated keys, a bounded depth and size.
"""

import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionStartEvent, StreamEndEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.scanner import Scanner

from heft.errors import HeftError
from heft.settings.words import KeyPath, dotted, show
from heft.storage.reading import FileFault, read_bytes

LIMIT_BYTES = 2**20
MAX_DEPTH = 16
MAX_BITS = 1024
"""Of a whole number: Python writes none of more than 4,300 digits, though it reads hexadecimal ones of any length."""


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
        where = f"{dotted(self.path)}: " if self.path else ""
        return f"{self.place.label}: {where}{self.text}"


IN_QUOTES = 'put text that has braces or ": " in quotes'
"""What to do where a person's text may have been read as a mapping."""


class Document:
    """The values of a file of settings, where each was written, and the faults seen so far."""

    def __init__(self, data: Any = None, places: dict[KeyPath, Place] | None = None) -> None:
        self.data = data
        self.places = places or {}
        self.faults: list[Fault] = []

    def place_of(self, path: KeyPath) -> Place:
        """The place of the key, or of the closest key above it."""
        return next(self.places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.places)

    def fault(self, path: KeyPath, text: str) -> None:
        """Note what is wrong with the value at `path`."""
        self.faults.append(Fault(self.place_of(path), path, text))

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

    `place_at` gives the place of a line, counted from 1; `what` the text should be is for messages.
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
        self._yaml = YAML(typ="safe", pure=True)
        self._yaml.Composer = _Composer
        self._yaml.Scanner = _Scanner
        self._composer: _Composer = self._yaml.composer

    def read(self) -> Document:
        self.document.places[()] = self._place_at(1)
        try:
            _, parser = self._yaml.get_constructor_parser(self._text)
            if self._composer.check_node():
                self.document.data = self._value(self._composer.get_node(), ())
            if not parser.check_event(StreamEndEvent):
                line = parser.peek_event().start_mark.line + 1
                self._fault(line, (), f"a second document starts here; a {self._what} is one document")
        except MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            self._stop(line, f"{error.context or ''} {error.problem}".strip())
        except YAMLError as error:
            line = self._text.count("\n", 0, getattr(error, "position", 0)) + 1
            self._stop(line, f"a control character ({str(error).splitlines()[0]})")
        return self.document

    def _stop(self, line: int, problem: str) -> None:
        hint = "; YAML has no tabs outside text, use spaces" if "\\t" in problem else ""
        if problem.startswith("mapping values are not allowed") or problem.endswith("but found '<scalar>'"):
            hint = f"; {IN_QUOTES}"
        self.document.data = None
        self.document.faults = [Fault(self._place_at(line), (), f"not readable as YAML: {problem}{hint}")]

    def _fault(self, line: int, path: KeyPath, text: str) -> None:
        self.document.faults.append(Fault(self._place_at(line), path, text))

    def _value(self, node: Node, path: KeyPath) -> Any:
        if id(node) in self._composer.refused:
            text = "anchors (&), aliases (*) and tags (!) are not read; write the value out"
            self._fault(_line(node), path, text)
        if isinstance(node, SequenceNode):
            items = [((*path, number), item) for number, item in enumerate(node.value)]
            self.document.places |= {here: self._place_at(_line(item)) for here, item in items}
            return [self._value(item, here) for here, item in items]
        return self._mapping(node, path) if isinstance(node, MappingNode) else self._scalar(node, path)

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        convert = getattr(self._yaml.constructor, f"construct_yaml_{_kind(node)}", None)
        try:
            value = node.value if convert is None else convert(node)
            if type(value) is int and value.bit_length() > MAX_BITS:
                raise ValueError
            return value
        except ValueError:
            self._fault(_line(node), path, f"a number of {len(node.value)} digits is too long")
            return node.value

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = self._value(key_node, path), _line(key_node)
            if not isinstance(key, str):
                self._fault(line, path, f"a key must be text; got {show(key)}, put it in quotes if it is meant")
                key = str(key)
            here = (*path, key)
            if key in values:
                self._fault(line, here, f"repeated; it was first given at {self.document.places[here].label}")
                self._value(value_node, here)
                continue
            self.document.places[here] = self._place_at(line)
            values[key] = self._value(value_node, here)
        return values


class _Scanner(Scanner):
    """Reads no directive, wherever it stands, and says where an escape is that ruamel.yaml makes no character of."""

    def fetch_directive(self) -> None:
        text = "directives (%YAML, %TAG) are not read; remove them"
        raise MarkedYAMLError(problem=text, problem_mark=self.reader.get_mark())

    def scan_flow_scalar_non_spaces(self, double: Any, start_mark: Any) -> Any:
        try:
            return super().scan_flow_scalar_non_spaces(double, start_mark)
        except (ValueError, OverflowError):
            text = "an escape (\\U and 8 digits) beyond the last character, \\U0010FFFF"
            raise MarkedYAMLError(problem=text, problem_mark=self.reader.get_mark()) from None


class _Composer(Composer):
    """Composes nodes of bounded depth, follows no alias, and notes which nodes have an anchor, an alias or a tag."""

    def __init__(self, loader: YAML) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False
        self.refused: set[int] = set()
        """`id` of these nodes."""

    def compose_node(self, parent: Node | None, index: Any) -> Node:
        event = self.parser.peek_event()
        if isinstance(event, CollectionStartEvent) and self.depth >= MAX_DEPTH:
            raise MarkedYAMLError(problem=f"more than {MAX_DEPTH} levels deep", problem_mark=event.start_mark)
        if isinstance(event, AliasEvent):
            self.parser.get_event()
            node = ScalarNode("tag:yaml.org,2002:null", "", event.start_mark, event.end_mark)
        else:
            node = super().compose_node(parent, index)
        if event.anchor or event.tag:
            self.refused.add(id(node))
        return node


def _kind(node: ScalarNode) -> str | None:
    """`int`, `float`, `bool` or `null`; None for text, which here includes dates, `1_000` and whatever is quoted."""
    kind = str(node.tag).rpartition(":")[2]
    is_plain = node.style is None and "_" not in node.value
    return kind if is_plain and kind in ("int", "float", "bool", "null") else None


def _line(node: Node) -> int:
    return node.start_mark.line + 1
