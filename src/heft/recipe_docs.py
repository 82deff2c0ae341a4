"""The recipe's declarations in words: docs/recipes.md, and what an error says was expected.

`python -m heft.recipe_docs > docs/recipes.md` writes the reference anew. Everything here reads the JSON schema of
`heft.recipe.Recipe`, so a setting is described from the place where it is declared.
"""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic_core import ErrorDetails

from heft.recipe import Recipe, nearest

KeyPath = tuple[str | int, ...]
Schema = dict[str, Any]

INTRODUCTION = """\
# Recipes

<!-- Written by `python -m heft.recipe_docs > docs/recipes.md`; change src/heft/recipe.py, not this file. -->

A recipe is one YAML file that says everything about a run. The ready ones in `recipes/` each state what they are for.

```yaml
name: boolq
task: {name: boolq, passage: true, train_limit: 2000}
stages:
  coarse: {method: lora, rank: 8, epochs: 1}
  fine: {method: reft, positions: l4, epochs: 2}
```

- Unknown keys, repeated keys and values of the wrong kind are errors. All faults of a recipe are reported together,
  each with its line, before any model is loaded.
- YAML 1.2: `no` and `on` are text, `true` and `false` are the truth values, `1e-4` is a number. A whole number may
  stand where a number is expected; a quoted number is text. Anchors, aliases and tags are not part of a recipe.
- `--set stages.fine.rank=4` overrides one key. The value is read as YAML; lists and mappings are replaced whole
  (`--set 'stages.fine.layers=[0, 1]'`); a key that itself contains a dot is set with the mapping that holds it.
- Of `name`, `task` and `stages` there is no default; all else has one. The run writes the resolved recipe, every
  default included, beside its results.
"""

STAGES = """\
A mapping from a stage's name to the stage, whose `method` says which adapter it trains. In a `joint` stage, `lora` and
`reft` are mappings with the settings of the two methods."""


@cache
def recipe_schema() -> Schema:
    """The JSON schema of a recipe; shared, so treat it as read-only."""
    return Recipe.model_json_schema()


def resolve(node: Schema) -> Schema:
    """Follow references and drop `null` from a choice of two: what a value other than null looks like."""
    if "$ref" in node:
        return resolve(recipe_schema()["$defs"][node["$ref"].rsplit("/", 1)[1]])
    branches = [branch for branch in node.get("anyOf", ()) if branch.get("type") != "null"]
    return resolve(branches[0]) if len(branches) == 1 else node


def variants(node: Schema) -> dict[str, Schema]:
    """The members of a choice by name, such as method → stage; empty where the node is no such choice."""
    mapping = node.get("discriminator", {}).get("mapping", {})
    return {tag: resolve({"$ref": reference}) for tag, reference in mapping.items()}


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
        branches = sorted(node["anyOf"], key=lambda branch: branch.get("type") == "null")
        return " or ".join(describe(branch) for branch in branches)
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
        case "array":
            return f"a list (each entry: {describe(node['items'])})"
        case "object" if "properties" in node:
            return f"a mapping with the keys {', '.join(node['properties'])}"
        case "object":
            size = " of at least one entry" if node.get("minProperties") else ""
            return f"a mapping{size} (each value: {describe(entry(node) or {})})"
        case "string":
            return "text" if not node.get("minLength") else "text that is not empty"
        case kind:
            return {"boolean": "true or false", "null": "null"}.get(kind, "any value")


def _describe_bounds(node: Schema) -> str:
    words = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    bounds = [f"{word} {node[key]:.15g}" for key, word in words.items() if key in node]
    return f" {' and '.join(bounds)}" if bounds else ""


def show(value: Any) -> str:
    """A value as a person would write it, cut to a readable length."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def locate(location: Sequence[str | int]) -> tuple[KeyPath, Schema]:
    """Turn pydantic's location, which names the members of choices too, into a path of keys and what belongs there."""
    node, path = recipe_schema(), ()
    for part in location:
        node = resolve(node)
        if members := variants(node):
            if part not in members:
                break
            node = members[part]
            continue
        below = node.get("properties", {}).get(part) or entry(node)
        if part == "[key]" or "anyOf" in node or (below is None and "properties" not in node):
            break
        node, path = below or {}, (*path, part)
    return path, node


def explain(error: ErrorDetails) -> tuple[KeyPath, str]:
    """Say one of pydantic's complaints in the words of a recipe: the path of the key it is about, and what is wrong."""
    path, node = locate(error["loc"])
    context, bare = error.get("ctx", {}), resolve(node)
    match error["type"]:
        case "extra_forbidden":
            group = resolve(locate(error["loc"][:-1])[1])
            return path, f"unknown key{nearest(str(path[-1]), list(group['properties']))}"
        case "missing":
            return path, f"missing; expected {describe(node)}"
        case "union_tag_not_found":
            key = bare["discriminator"]["propertyName"]
            return (*path, key), f"missing; expected one of {', '.join(variants(bare))}"
        case "union_tag_invalid":
            key = bare["discriminator"]["propertyName"]
            return (*path, key), f"unknown {key} {context['tag']!r}{nearest(context['tag'], list(variants(bare)))}"
        case "value_error":
            text = str(context["error"]) if "error" in context else error["msg"]
            return (*path, *context.get("below", ())), text
        case _:
            close = get_close_matches(str(error["input"]), _words(bare), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            return path, f"expected {describe(node)}; got {show(error['input'])}{hint}"


def _default(key: str, node: Schema, required: list[str]) -> str:
    if "default_in_words" in node:
        return node["default_in_words"]
    if key in required or "default" not in node:
        return "required"
    value = node["default"]
    if isinstance(value, dict) and value:
        return "its defaults"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _is_described_below(node: Schema) -> bool:
    node = resolve(node)
    return "properties" in node or bool(variants(node)) or bool(variants(entry(node) or {}))


def _table(properties: dict[str, Schema], required: list[str]) -> str:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, node in properties.items():
        value = "a mapping, see below" if _is_described_below(node) else describe(node)
        meaning = " ".join((node.get("description") or resolve(node).get("description", "")).split())
        cells = [f"`{key}`", value, _default(key, node, required), meaning.replace("<", "&lt;")]
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _section(heading: str, node: Schema) -> str:
    """The section of one group of settings, its own groups below it."""
    node = resolve(node)
    text = node.get("description", "").strip()
    return f"{heading}\n\n{text}\n\n{_table(node['properties'], node.get('required', []))}"


def _choice_section(heading: str, choice: Schema, text: str) -> str:
    """The section of a choice such as `stages`: its members, then their settings, each in one table only."""
    members, tag_key = variants(choice), choice["discriminator"]["propertyName"]
    lines = [heading, "", text, "", f"| `{tag_key}` | what it is |", "|---|---|"]
    lines += [f"| `{tag}` | {member['description'].partition(chr(10))[0]} |" for tag, member in members.items()]
    parts = ["\n".join(lines) + "\n"]
    for tags, properties in _settings_by_members(members, tag_key).items():
        names = ", ".join(f"`{tag}`" for tag in tags)
        parts.append("All of them have:\n" if len(tags) == len(members) else f"#{heading.split()[0]} {names}\n")
        parts.append(_table(properties, [key for key in properties if key in members[tags[0]].get("required", [])]))
    return "\n".join(parts)


def _settings_by_members(members: dict[str, Schema], tag_key: str) -> dict[tuple[str, ...], dict[str, Schema]]:
    """Settings grouped by which members have them in the same form; the groups with most members come first."""
    groups: dict[tuple[str, ...], dict[str, Schema]] = {}
    for member in members.values():
        for key, node in member["properties"].items():
            if key != tag_key:
                owners = tuple(tag for tag, other in members.items() if other["properties"].get(key) == node)
                groups.setdefault(owners, {})[key] = node
    return dict(sorted(groups.items(), key=lambda group: -len(group[0])))


def recipes_page() -> str:
    """The text of docs/recipes.md."""
    schema = recipe_schema()
    keys = schema["properties"]
    stage = entry(keys["stages"]) or {}
    return "\n".join(
        [
            INTRODUCTION,
            _section("## The recipe", schema),
            _section("## `model`", keys["model"]),
            _choice_section("## `task`", keys["task"], "A mapping whose `name` says which task."),
            _choice_section("## `stages`", stage, STAGES),
            _section("### `early_stop`", variants(stage)["lora"]["properties"]["early_stop"]),
            _section("## `evaluation`", keys["evaluation"]),
            _section("## `sweep`", keys["sweep"]),
        ]
    )


if __name__ == "__main__":
    print(recipes_page(), end="")
