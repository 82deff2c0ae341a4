"""Examples as the model will see them, against the labels of training and a definition of edited positions."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny
from heft.data.inspect import show_examples, token_texts
from heft.data.rows import read_data
from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.runtime.reporter import Reporter

TOKENIZER = tiny.byte_tokenizer()
STAGES = (
    "{coarse: {method: lora, rank: 2}, fine: {method: reft, rank: 2, positions: l2},"
    " both: {method: joint, lora: {positions: l4}, reft: {rank: 2, positions: f1+l3}},"
    " last: {method: reft, rank: 2, positions: all}}"
)


def test_tokens_labels_and_edits_are_those_of_training(recipe_file):
    recipe = load_recipe(recipe_file(STAGES))
    shown = show_examples(recipe, 3)
    assert [(editor.name, editor.positions) for editor in shown.editors] == [
        ("coarse", None), ("fine", "l2"), ("both_lora", "l4+"), ("both_reft", "f1+l3"), ("last", "all"),
    ]  # fmt: skip
    rows = read_data(recipe, Reporter()).train[:3]
    for row, example in zip(rows, shown.examples, strict=True):
        prompt, total = len(row.prompt), len(row.prompt) + len(row.answer)
        assert tuple(token.id for token in example.tokens) == row.prompt + row.answer
        assert "".join(token.text for token in example.tokens) == row.example.prompt + row.example.answer
        assert [token.trained for token in example.tokens] == [False] * prompt + [True] * (total - prompt)
        edited = [{i for i, token in enumerate(example.tokens) if n in token.edited_by} for n in range(5)]
        ends = {0, prompt - 3, prompt - 2, prompt - 1}
        later = set(range(prompt - 4, total))
        assert edited == [set(), {prompt - 2, prompt - 1}, later, ends, set(range(total))]
        assert (example.id, example.prompt_tokens, example.cut) == (row.example.id, prompt, 0)


def test_a_cut_prompt_is_shown_as_it_is_after_the_cut(recipe_file):
    recipe = load_recipe(recipe_file(STAGES), ["task.max_length=90"])
    (example,) = show_examples(recipe, 1).examples
    assert len(example.tokens) <= 90
    assert example.cut == len(TOKENIZER(read_data(recipe, Reporter()).train[0].example.prompt)["input_ids"]) - (
        example.prompt_tokens
    )


def test_a_sweeps_editors_are_those_of_every_configuration_once(recipe_file):
    sweep = "sweep: {grid: {rank: [2, 4], positions: [l2, f1]}}"
    recipe = load_recipe(recipe_file("{a: {method: lora, rank: 2}, b: {method: reft, positions: l1}}", sweep))
    editors = show_examples(recipe, 1).editors
    assert [(editor.name, editor.positions) for editor in editors] == [("a", None), ("b", "l2"), ("b", "f1")]


def test_more_than_there_are_shows_all_and_rows_that_the_checks_refuse_are_shown(recipe_file, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "<bos><bos>Q", "completion": "a"}))
    task = f"{{name: rows, train: {tmp_path / 'rows.jsonl'}, eval: {tmp_path / 'rows.jsonl'}}}"
    recipe = load_recipe(recipe_file("{a: {method: reft, positions: l1}}", task=task))
    with pytest.raises(HeftError, match="double_bos"):
        read_data(recipe, Reporter())
    (example,) = show_examples(recipe, 9).examples
    assert [(token.text, token.special) for token in example.tokens] == [
        ("<bos>", True), ("<bos>", True), ("Q", False), (" ", False), ("a", False), ("<eos>", True),
    ]  # fmt: skip


def test_a_part_of_a_character_is_spelt_as_in_the_vocabulary():
    ids = TOKENIZER("aé")["input_ids"]
    assert token_texts(ids, TOKENIZER) == ["a", *TOKENIZER.convert_ids_to_tokens(ids[1:])]


def test_a_space_that_decoding_drops_at_the_start_is_kept():
    vocabulary = {"<unk>": 0, "▁a": 1, "▁b": 2, "b": 3}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    assert tokenizer.decode([2]) == "b"
    assert token_texts([2, 3, 2], tokenizer) == [" b", "b", " b"]
