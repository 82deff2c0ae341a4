"""The reference of recipes is current and complete, and the ready recipes are what they say."""

from pathlib import Path

import pytest

from heft.recipe.docs import recipes_page
from heft.recipe.files import load_recipe
from heft.recipe.recipe import Recipe
from heft.settings.words import describe, schema_of

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "src" / "heft" / "recipes").glob("*.yaml"))


def settings_groups() -> dict[str, dict]:
    return {"Recipe": schema_of(Recipe)} | {
        name: group for name, group in schema_of(Recipe)["$defs"].items() if "properties" in group
    }


def test_the_committed_reference_is_what_the_models_say_today():
    written = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    assert written == recipes_page(), "run: python -m heft.recipe.docs > docs/recipes.md"


def test_every_setting_says_what_it_means():
    silent = [
        f"{group}.{key}"
        for group, schema in settings_groups().items()
        for key, node in schema["properties"].items()
        if not node.get("description") and "$ref" not in node
    ]
    assert silent == []


def test_every_setting_has_a_row():
    page = recipes_page()
    choosers = {"method", "name"}
    missing = [
        f"{group}.{key}"
        for group, schema in settings_groups().items()
        for key in schema["properties"]
        if f"| `{key}` |" not in page and key not in choosers
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1}, "a whole number of at least 1"),
        ({"type": "number", "minimum": 0.0, "exclusiveMaximum": 1.0}, "a number of at least 0 and below 1"),
        ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, "true or false, or null"),
        ({"enum": ["a", "b"], "type": "string"}, "one of a, b"),
        (
            {"anyOf": [{"const": "all"}, {"type": "array", "items": {"type": "integer"}}]},
            "all or a list (each entry: a whole number)",
        ),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "a mapping (each value: text)"),
        ({"$ref": schema_of(Recipe)["$defs"]["EarlyStoppingSettings"]}, "a mapping with the keys patience, min_delta"),
    ],
)
def test_a_schema_is_put_in_words(schema, words):
    assert describe(schema) == words


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_ready_recipe_loads_is_named_as_its_file_and_says_what_it_is_for(path):
    assert load_recipe(path).name == path.stem
    assert path.read_text(encoding="utf-8").startswith("# For ")


def test_the_ready_recipes_are_those_promised():
    promised = "boolq debug from_lora joint lora quickstart reft reft_then_lora sweep three_stages"
    assert [path.stem for path in RECIPES] == promised.split()


def test_the_ready_boolq_recipes_train_and_evaluate_on_the_same_rows():
    tasks = [recipe.task for recipe in map(load_recipe, RECIPES) if recipe.task.name == "boolq"]
    assert len(tasks) == 7
    assert all(task == tasks[0] for task in tasks)
