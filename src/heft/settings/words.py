"""pydantic's models and errors in words: what a value must be, and what is wrong with one that is not.

Everything here reads the JSON schema of a model, so a setting is described from the place where it is declared.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from heft.errors import HeftError
from heft.text.listing import suggest

KeyPath = tuple[str | int, ...]
Schema = dict[str, Any]
_Model = TypeVar("_Model", bound=BaseModel)


@cache
def schema_of(kind: type) -> Schema:
    """The JSON schema of a model or dataclass, with references resolved; it is shared: do not change it."""
    schema = TypeAdapter(kind).json_schema()
    definitions = schema.get("$defs", {})

    def link(node: Any) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(value, str) and value.startswith("#/$defs/"):
                node[key] = definitions[value.removeprefix("#/$defs/")]
            elif isinstance(value, dict | list):
                link(value)

    link(schema)
    return schema


def resolve(node: Schema) -> Schema:
    """Follow references and drop `null` from a choice of two: what a value other than null looks like."""
    if "$ref" in node:
        return resolve(node["$ref"])
    branches = [branch for branch in node.get("anyOf", ()) if branch.get("type") != "null"]
    return resolve(branches[0]) if len(branches) == 1 else node


def variants(node: Schema) -> dict[str, Schema]:
    """The members of a choice by name, such as method → stage; empty where the node is no such choice."""
    mapping = node.get("discriminator", {}).get("mapping", {})
    return {tag: resolve(member) for tag, member in mapping.items()}


def entry(node: Schema) -> Schema | None:
    """What each value of a free mapping or each entry of a list looks like; None where the node is neither."""
    free = [*node.get("patternProperties", {}).values(), node.get("additionalProperties"), node.get("items")]
    return next((schema for schema in free if isinstance(schema, dict)), None)


def describe(node: Schema) -> str:
    """Say what a value must be, such as `a whole number of at least 1`."""
    if "$ref" in node:
        return describe(resolve(node))
    if named := variants(node):
        return f"a mapping with {node['discriminator']['propertyName']} one of {', '.join(named)}"
    if "anyOf" in node:
        branches = [branch for branch in node["anyOf"] if branch.get("type") != "null"]
        return " or ".join(map(describe, branches)) + (", or null" if len(branches) < len(node["anyOf"]) else "")
    if "const" in node or "enum" in node:
        words = _words(node)
        return words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    return _describe_kind(node)


def _words(node: Schema) -> list[str]:
    return [str(word) for word in node.get("enum", [node["const"]] if "const" in node else [])]


def _describe_kind(node: Schema) -> str:
    match node.get("type"):
        case "integer" | "number":
            return ("a whole number" if node["type"] == "integer" else "a number") + _describe_bounds(node)
        case "array" if "items" in node:
            return f"a list (each entry: {describe(node['items'])})"
        case "array":
            return f"a list of {len(node['prefixItems'])}"
        case "object" if "properties" in node:
            return f"a mapping with the keys {', '.join(node['properties'])}"
        case "object":
            size = " of at least one entry" if node.get("minProperties") else ""
            return f"a mapping{size} (each value: {describe(entry(node) or {})})"
        case "string":
            return "text" if not node.get("minLength") else "non-empty text"
        case kind:
            return {"boolean": "true or false", "null": "null"}.get(kind, "any value")


def _describe_bounds(node: Schema) -> str:
    words = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    values = {key: node[key] for key in words if key in node}
    bounds = [f"{words[key]} {n if isinstance(n, int) else format(n, '.15g')}" for key, n in values.items()]
    return f" {' and '.join(bounds)}" if bounds else ""


def show(value: Any) -> str:
    """A value as a person would write it, cut to a readable length."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def locate(location: Sequence[str | int], schema: Schema) -> tuple[KeyPath, Schema]:
    """Turn pydantic's location, which names the members of choices too, into a path of keys and what belongs there.

    A location that ends in "[key]" is about a mapping's key, not its value.
    """
    node, path = schema, ()
    for number, part in enumerate(location, start=1):
        node = resolve(node)
        if members := variants(node):
            if part not in members:
                break
            node = members[part]
            continue
        below = node.get("properties", {}).get(part) or entry(node)
        if (
            (part == "[key]" and number == len(location))
            or "anyOf" in node
            or (below is None and "properties" not in node)
        ):
            break
        node, path = below or {}, (*path, part)
    return path, node


def explain(error: ErrorDetails, schema: Schema) -> tuple[KeyPath, str]:
    """Say one of pydantic's complaints for people: the path of the key it is about, and what is wrong."""
    path, node = locate(error["loc"], schema)
    context, bare = error.get("ctx", {}), resolve(node)
    match error["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            *above, key = error["loc"]
            path, group = locate(above, schema)
            return (*path, key), f"unknown key{suggest(str(key)[:100], list(resolve(group)['properties']))}"
        case "missing":
            return path, f"missing; expected {describe(node)}"
        case "union_tag_not_found":
            key = bare["discriminator"]["propertyName"]
            return (*path, key), f"missing; expected one of {', '.join(variants(bare))}"
        case "union_tag_invalid":
            key = bare["discriminator"]["propertyName"]
            given, known = error["input"][key], list(variants(bare))
            if not isinstance(given, str):
                return (*path, key), f"expected one of {', '.join(known)}; got {show(given)}"
            return (*path, key), f"unknown {key} {given!r}{suggest(given, known)}"
        case "value_error":
            text = str(context["error"]) if "error" in context else error["msg"]
            return (*path, *context.get("below", ())), text
        case _:
            close = get_close_matches(str(error["input"]), _words(bare), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            return path, f"expected {describe(node)}; got {show(error['input'])}{hint}"


def faults_of(error: ValidationError, kind: type) -> dict[KeyPath, str]:
    """What is wrong with the value that was to be a `kind`: one fault for each key, by its path."""
    return faults_in(error.errors(include_url=False), kind)


def faults_in(complaints: Iterable[ErrorDetails], kind: type) -> dict[KeyPath, str]:
    """The same of pydantic's complaints themselves."""
    faults: dict[KeyPath, str] = {}
    for details in complaints:
        if details["type"] != "default_factory_not_called":  # such a default waits for a value that has its own fault
            path, text = explain(details, schema_of(kind))
            faults.setdefault(path, text)
    return faults


def checked(path: Path, value: dict[str, Any], kind: type[_Model]) -> _Model:
    """What was read from a file, as a model.

    Raises:
        HeftError: values are missing or of another type; the first of them are named.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        shown = in_one_line(faults_of(error, kind))
        raise HeftError(f"{path} was changed by hand or written by another version of heft: {shown}") from None


def in_one_line(faults: dict[KeyPath, str]) -> str:
    """The first ten faults, as `stages[1].steps: missing; …`."""
    shown = [": ".join(filter(None, (dotted(path)[:200], text[:300]))) for path, text in list(faults.items())[:10]]
    more = [f"and {len(faults) - 10:,} more"] if len(faults) > 10 else []
    return "; ".join(shown + more)


def dotted(path: KeyPath) -> str:
    """A path as a person would write it, such as `stages.fine.layers[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
