"""docs/recipes.md, the reference of a recipe's settings, from their declarations.

`python -m heft.recipe.docs > docs/recipes.md` writes it anew.
"""

import json

from heft.recipe.recipe import Recipe
from heft.settings.words import Schema, describe, entry, resolve, schema_of, variants

INTRODUCTION = """\
# Recipes

<!-- Written by `python -m heft.recipe.docs > docs/recipes.md`; change the settings, not this file. -->

A recipe is one YAML file with every setting of a run. `heft recipes` lists those that come with heft.

```yaml
name: boolq
task: {name: boolq, passage: true, train_limit: 2000}
stages:
  coarse: {method: lora, rank: 8, epochs: 1}
  fine: {method: reft, positions: l4, epochs: 2}
```

- Unknown keys, repeated keys and values of the wrong type are errors. All errors of a recipe are reported together,
  each with its line, before any model is loaded.
- YAML 1.2: `no` and `on` are text, `true` and `false` are the truth values, `1e-4` is a number. A whole number may
  stand where a number is expected; a quoted number is text. Anchors, aliases and tags are not part of a recipe.
- `--set stages.fine.rank=4` overrides one key. The value is read as YAML; lists and mappings are replaced whole
  (`--set 'stages.fine.layers=[0, 1]'`); a key that itself contains a dot is set with the mapping that holds it.
- `name`, `task` and `stages` have no default; everything else has one. The run writes the resolved recipe, with every
  default, beside its results.
"""

STAGES = """\
A mapping from a stage's name to the stage, whose `method` says which adapter it trains. In a `joint` stage, `lora` and
`reft` are mappings with the settings of the two methods. Names in parentheses are those of transformers'
TrainingArguments."""


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
        cells = [f"`{key}`", value, _default(key, node, required), _outside_code(meaning)]
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _outside_code(text: str) -> str:
    """The text with `<` as Markdown shows it; within backticks it stands for itself."""
    parts = text.split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))


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
    schema = schema_of(Recipe)
    keys = schema["properties"]
    stage = entry(keys["stages"]) or {}
    early_stopping = resolve(variants(stage)["lora"]["properties"]["early_stopping"])
    return "\n".join(
        [
            INTRODUCTION,
            _section("## The recipe", schema),
            _section("## `model`", keys["model"]),
            _choice_section("## `task`", keys["task"], "A mapping whose `name` says which task."),
            _choice_section("## `stages`", stage, STAGES),
            _section("### `early_stopping`", early_stopping),
            _section("## `evaluation`", keys["evaluation"]),
            _section("## `checkpoint`", keys["checkpoint"]),
            _section("## `sweep`", keys["sweep"]),
            _section("## `tune`", keys["tune"]),
        ]
    )


if __name__ == "__main__":
    print(recipes_page(), end="")
