"""Files of settings: a strict read with line numbers, overrides, checks, and a write.

heft.settings.yaml reads the YAML, pydantic checks the values, and heft.settings.words puts its errors in words.
"""

import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from heft.errors import HeftError
from heft.settings.base import Settings
from heft.settings.words import KeyPath, faults_of, schema_of, show
from heft.settings.yaml import IN_QUOTES, Document, Fault, Place, read_yaml, read_yaml_file

_Checked = TypeVar("_Checked", bound=Settings)


def read_document(path: Path, kind: type[Settings], what: str, example: str, source: int = 0) -> Document:
    """Read a file of settings; what is wrong with it becomes faults of the document, whose data may be anything.

    `what` it is, such as "recipe", and an `example` of such a file are for messages; `source` sorts its faults among
    those of other files.

    Raises:
        HeftError: the file cannot be read.
    """
    document = read_yaml_file(path, what, example, source)
    if not document.faults:
        require_mapping(document, kind, what)
    return document


def require_mapping(document: Document, kind: type[Settings], what: str) -> None:
    """Note where a document holds no mapping; `what` it is, such as "recipe", is for the message."""
    if not isinstance(document.data, dict):
        found = "is empty" if document.data is None else f"holds {show(document.data)}"
        required = ", ".join(schema_of(kind)["required"])
        document.fault((), f"the {what} {found}; expected a mapping with at least the keys {required}")


def apply_overrides(
    document: Document, overrides: Sequence[str], output: str | Path | None = None, dotted_below: str | None = None
) -> None:
    """Apply `key.path=value` in order, then `output`, to a document that holds a mapping.

    A text alone is one override. What follows a key `dotted_below` is one key, dots and all.
    """
    overrides = [overrides] if isinstance(overrides, str) else overrides
    if not isinstance(document.data, dict):
        return
    for number, text in enumerate(overrides, start=1):
        _override(document, text, number, dotted_below)
    if output is not None:
        place = Place(len(overrides) + 1, 0, f"--output {output}")
        document.put(("output",), Document(str(output), {(): place}))


def _override(document: Document, text: str, source: int, dotted_below: str | None) -> None:
    """Apply one `key.path=value`; what is wrong with it becomes a fault of the document."""
    place = Place(source, 0, f"--set {text}")
    key, equals, value = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        document.faults.append(Fault(place, (), "expected key=value, such as stages.fine.rank=4"))
        return
    if dotted_below in path[:-1]:
        start = path.index(dotted_below) + 1
        path = (*path[:start], ".".join(path[start:]))
    set_value(document, path, read_yaml(value, lambda line: place), place)


def set_value(document: Document, path: KeyPath, part: Document, place: Place) -> None:
    """Set a value; mappings on the way to it are made where there are none. What prevents it becomes a fault."""
    target = document.data
    for depth, part_name in enumerate(path[:-1], start=1):
        if target.get(part_name) is None:
            target[part_name] = {}
            document.places[path[:depth]] = place
        target = target[part_name]
        if not isinstance(target, dict):
            problem = f"not a mapping, so it has no key {path[depth]!r}; it is {show(target)} and is set whole"
            document.faults.append(Fault(place, path[:depth], problem))
            return
    document.put(path, part)


def validate(document: Document, kind: type[_Checked]) -> _Checked:
    """Check the values; what is wrong with them, at most one fault per key, is raised with all faults so far."""
    checked = check(document, kind) if isinstance(document.data, dict) else None
    if checked is None or document.faults:
        raise faults_error(document.faults)
    return checked


def faults_error(faults: Iterable[Fault]) -> HeftError:
    """All faults, one per line, in the order in which they were written; equal ones once."""
    return HeftError("\n".join(dict.fromkeys(str(fault) for fault in sorted(faults, key=lambda fault: fault.place))))


def check(document: Document, kind: type[_Checked]) -> _Checked | None:
    """Check the values; what is wrong with them becomes faults of the document."""
    try:
        return kind.model_validate(document.data, strict=True, by_name=False, by_alias=True)
    except ValidationError as error:
        known = {fault.path for fault in document.faults}
        for path, text in faults_of(error, kind).items():
            if path not in known:
                is_text = text.startswith(("expected text", "expected non-empty text")) and "; got {" in text
                document.fault(path, f"{text}; {IN_QUOTES}" if is_text else text)
    return None


class _Representer(SafeRepresenter):
    """Writes text with line ends other than \\n between double quotes, where they are spelt out; others are folded."""

    def _text(self, text: str) -> ScalarNode:
        style = '"' if any(end in text for end in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Representer.add_representer(str, _Representer._text)


def to_yaml(data: dict[str, Any]) -> str:
    """Plain values as YAML, in their order."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = sys.maxsize  # ruamel.yaml 0.19 loses characters where it folds text between double quotes
    text = io.StringIO()
    yaml.dump(data, text)
    return text.getvalue()
