"""Lengths that `heft init` writes: the checks before training let them pass."""

import json

import pytest

import tiny
from heft.data.fitting import fitting_settings
from heft.data.rows import read_data
from heft.errors import HeftError
from heft.recipe.files import recipe_of_values
from heft.runtime.reporter import Reporter

POSITIONS = 160


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model of few positions, in a folder."""
    folder = tmp_path_factory.mktemp("base")
    tiny.tiny_model("gpt2", max_position_embeddings=POSITIONS).save_pretrained(folder)
    tiny.byte_tokenizer().save_pretrained(folder)
    return folder


def recipe_of(base, folder, rows, **task):
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    stages = {"coarse": {"method": "lora"}}
    task = {"name": "rows", "train": str(folder / "rows.jsonl"), **task}
    return recipe_of_values({"name": "fits", "model": {"name": str(base)}, "task": task, "stages": stages})


def generated(prompt, answer):
    return [{"prompt": f"{i:2}" + "w" * (prompt - 2), "completion": f"{i:02}" + "a" * (answer - 2)} for i in range(12)]


@pytest.mark.parametrize(("prompt", "answer", "task", "expected"), [
    (40, 10, {}, {}),
    (40, 10, {"max_length": 32}, {"max_length": 64}),
    (95, 10, {}, {}),  # 64 tokens may be generated, and no more
    (120, 10, {}, {"max_length": POSITIONS - 64}),  # such rows have positions, but not with what may be generated
    (600, 10, {}, {"max_length": POSITIONS - 64}),
    (600, 70, {}, {"max_length": POSITIONS // 2, "max_new_tokens": 128}),
])  # fmt: skip
def test_generated_answers_have_positions_behind_the_longest_prompt(prompt, answer, task, expected, base, tmp_path):
    recipe = recipe_of(base, tmp_path, generated(prompt, answer), **task)
    assert recipe.task.max_new_tokens == 64
    assert fitting_settings(recipe) == expected


@pytest.mark.parametrize("rows", [
    generated(120, 10),
    generated(600, 10),
    [{"text": f"{i:2}" + "w" * 300, "label": "yes" if i % 2 else "no"} for i in range(24)],
], ids=["prompt", "long prompt", "labels"])  # fmt: skip
def test_rows_pass_the_checks_with_what_is_written_and_not_without(rows, base, tmp_path):
    columns = {} if "prompt" in rows[0] else {"prompt": "{text}", "answer": "label", "choices": ["yes", "no"]}
    recipe = recipe_of(base, tmp_path, rows, **columns)
    with pytest.raises(HeftError, match=f"the model has {POSITIONS} positions"):
        read_data(recipe, Reporter())
    fitted = recipe_of(base, tmp_path, rows, **columns, **fitting_settings(recipe))
    assert read_data(fitted, Reporter()).train
