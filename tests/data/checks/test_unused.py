"""Settings that have no effect on the rows that there are."""

import pytest
from encoding import chosen, generated

import tiny
from heft.builtin import TINY
from heft.data.checks import checked_rows
from heft.data.checks.unused import unused_settings
from heft.errors import HeftError
from heft.recipe.recipe import Recipe
from heft.runtime.reporter import Reporter


def recipe(task=None, **evaluation) -> Recipe:
    stages = {"a": {"method": "lora"}}
    task = {"name": "rows", "train": "t", "eval": "e", **(task or {})}
    return Recipe(name="r", model={"name": TINY}, task=task, stages=stages, evaluation=evaluation)


@pytest.mark.parametrize(
    ("task", "evaluation", "rows", "found"),
    [
        ({"max_new_tokens": 8}, {}, [chosen()], "task.max_new_tokens: 8 has no effect, since all rows have choices"),
        ({"stop": ["\n"]}, {}, [chosen()], "task.stop: ['\\n'] has no effect, since all rows have choices"),
        ({"format": "letters"}, {}, [generated()], "task.format: 'letters' has no effect, since no row has choices"),
        ({}, {"normalize": "bytes"}, [generated()], "evaluation.normalize: 'bytes' has no effect, since no row"),
    ],
)
def test_a_setting_without_an_effect_is_an_error(task, evaluation, rows, found):
    with pytest.raises(HeftError) as caught:
        checked_rows(recipe(task, **evaluation), rows, rows, tiny.byte_tokenizer(), Reporter())
    assert found in str(caught.value)


def test_what_has_an_effect_or_is_the_default_is_none():
    both = recipe({"max_new_tokens": 8, "stop": ["\n"], "format": "letters"}, normalize="bytes")
    assert unused_settings(both, [generated(), chosen()]) == []
    assert unused_settings(both, [generated()]) != []
    written_out = recipe({"max_new_tokens": 64, "stop": [], "format": "cloze"}, normalize="none")
    assert unused_settings(written_out, [generated()]) == unused_settings(written_out, [chosen()]) == []
