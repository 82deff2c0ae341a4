"""Evaluations of a run that keep prefixes for each other: the same figures, each prefix once, and never where it costs
more."""

import json

import pytest
import torch

import heft
import tiny
from heft.data.encode import Encoder
from heft.data.rows import read_data
from heft.evaluation.kept import same_evaluations
from heft.recipe.files import load_recipe
from heft.results.records import read_records
from heft.runtime.reporter import Reporter
from heft.tasks.example import choice_example, generation_example
from heft.training.reuse.prefix import PrefixReuse
from heft.training.reuse.shared import RowPrefixes
from resuming import results, run
from tiny_recipe import write_recipe
from tolerance import rounded

LORA = "{method: lora, rank: 2, steps: 3, batch_size: 8, learning_rate: 1e-2, positions: %s}"
REFT = "{method: reft, rank: 2, steps: 3, batch_size: 8, learning_rate: 1e-2, positions: %s}"
BEHIND_BASE = f"{{coarse: {LORA % 'l5'}, fine: {REFT % 'l3+'}}}"
BEHIND_LORA = f"{{coarse: {LORA % 'all'}, fine: {REFT % 'l3'}}}"
ROWS = 10


def log_likelihoods(directory, name):
    lines = (directory / "records" / f"{name}.jsonl").read_text().splitlines()
    return [value for line in lines for value in json.loads(line)["log_likelihoods"]]


@pytest.fixture
def computed(monkeypatch):
    """(number of the row, whether with no adapter on, whether it is kept) of each prefix of an evaluation row that is
    computed."""
    found = []
    compute = PrefixReuse.compute

    def noted(self, rows):
        if len(self.examples) == ROWS:
            found.extend((row, self.of_base, self.store.persistent) for row in rows)
        return compute(self, rows)

    monkeypatch.setattr(PrefixReuse, "compute", noted)
    return found


@pytest.mark.parametrize(("stages", "of_base"), [(BEHIND_BASE, True), (BEHIND_LORA, False)], ids=["base", "lora"])
def test_figures_are_those_of_the_plain_path_and_each_prefix_is_computed_once(tmp_path, computed, stages, of_base):
    recipe = write_recipe(tmp_path, stages)
    run(recipe, tmp_path / "kept")
    assert {alone for _, alone, _ in computed} == {of_base}
    assert sorted(row for row, _, is_kept in computed if is_kept) == list(range(ROWS))
    assert sum(not is_kept for _, _, is_kept in computed) <= 1 + 2 * 3  # a token's size, and two trials of each
    del computed[:]
    run(recipe, tmp_path / "plain", "evaluation.share_prefix=false")
    assert not computed
    for name in ("base", "coarse", "fine"):
        expected = log_likelihoods(tmp_path / "plain", name)
        assert log_likelihoods(tmp_path / "kept", name) == [rounded(value) for value in expected]


@pytest.mark.parametrize(
    "stages", [BEHIND_BASE, pytest.param(BEHIND_LORA, marks=pytest.mark.long)], ids=["base", "lora"]
)
def test_a_run_that_was_ended_before_its_last_evaluation_ends_as_if_it_had_not_been(tmp_path, monkeypatch, stages):
    recipe = write_recipe(tmp_path, stages)
    run(recipe, tmp_path / "whole")
    evaluate = heft.run.stage_loop.StageLoop.evaluate

    def until_the_last(self, name, **figures):
        if name == "fine":
            raise KeyboardInterrupt
        return evaluate(self, name, **figures)

    with monkeypatch.context() as patch:
        patch.setattr("heft.run.stage_loop.StageLoop.evaluate", until_the_last)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path / "ended")
    run(recipe, tmp_path / "ended")
    assert results(tmp_path / "ended") == results(tmp_path / "whole")


@pytest.mark.parametrize(
    ("lora", "reft", "is_split"), [("all", "l3", True), ("l5", "f1+l1", False), ("l5", "l3", True)]
)
def test_after_a_joint_stage_alone_nothing_is_kept_and_figures_are_those_of_the_loaded_adapters(
    tmp_path, computed, lora, reft, is_split
):
    """It has two adapters; where both act on last tokens only, the base's evaluation has the same prefixes."""
    adapters = f"lora: {{rank: 2, positions: {lora}}}, reft: {{rank: 2, positions: {reft}}}"
    stages = f"{{both: {{method: joint, steps: 2, batch_size: 8, {adapters}}}}}"
    run(write_recipe(tmp_path, stages), tmp_path / "run")
    assert {row for row, _, _ in computed} == set(range(ROWS) if is_split else ())
    assert any(is_kept for _, _, is_kept in computed) == (lora == "l5" and is_split)
    model, tokenizer = heft.load(tmp_path / "run" / "adapter")
    recipe = load_recipe(tmp_path / "run" / "recipe.yaml")
    found = heft.evaluate(model, tokenizer, recipe.task, recipe.evaluation)
    assert found.records == read_records(tmp_path / "run" / "records" / "both.jsonl")


def test_a_note_says_where_prefixes_are_cached(tmp_path):
    class Notes(Reporter):
        def note(self, text):
            notes.append(text)

    notes: list[str] = []
    heft.train(load_recipe(write_recipe(tmp_path, BEHIND_BASE), output=str(tmp_path / "run")), reporter=Notes())
    assert "prefixes of evaluation rows are cached in memory for base, coarse and fine" in notes


@pytest.mark.parametrize(
    "stages", [BEHIND_BASE, pytest.param(BEHIND_LORA, marks=pytest.mark.long)], ids=["base", "lora"]
)
def test_where_there_is_no_room_each_evaluation_computes_its_own_to_the_same_bits(
    tmp_path, computed, monkeypatch, stages
):
    recipe = write_recipe(tmp_path, stages)
    run(recipe, tmp_path / "kept")
    del computed[:]
    monkeypatch.setattr(RowPrefixes, "make_room", lambda self, model, pad_id: "off")
    run(recipe, tmp_path / "off")
    assert len(computed) >= 2 * ROWS
    assert not any(is_kept for _, _, is_kept in computed)
    assert results(tmp_path / "off") == results(tmp_path / "kept")


@pytest.mark.parametrize("batch_size", [16, 3])
@pytest.mark.parametrize("stages", [BEHIND_BASE, BEHIND_LORA], ids=["base", "lora"])
def test_the_loaded_adapter_has_the_figures_of_the_last_evaluation_to_the_bit(tmp_path, stages, batch_size):
    recipe = load_recipe(
        write_recipe(tmp_path, stages), [f"evaluation.batch_size={batch_size}"], output=str(tmp_path / "run")
    )
    made = heft.train(recipe)
    model, tokenizer = heft.load(made.directory / "adapter")
    found = heft.evaluate(model, tokenizer, recipe.task, recipe.evaluation)
    assert found.records == read_records(made.directory / "records" / "fine.jsonl")


def same(recipe, rows):
    return [(each.names, each.start) for each in same_evaluations(recipe, rows, torch.device("cpu"))]


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (["l5", "l3"], [(("base", "s0", "s1"), 5)]),
        (["l5"], []),  # another run may have evaluated the base already
        (["all", "l4"], [(("s0", "s1"), 4)]),
        (["l2", "all", "l4"], [(("s1", "s2"), 4)]),
        (["l6", "l2", "all", "l4"], [(("base", "s0", "s1"), 6), (("s2", "s3"), 6)]),
        (["all", "f1+l1"], []),
    ],
)
def test_stages_of_last_positions_leave_prefixes_as_they_are(tmp_path, positions, expected):
    each = "{{method: reft, rank: 2, steps: 2, positions: {}}}"
    stages = ", ".join(f"s{i}: {each.format(where)}" for i, where in enumerate(positions))
    path = write_recipe(tmp_path, f"{{{stages}}}")
    rows = read_data(load_recipe(path), Reporter()).eval
    assert same(load_recipe(path), rows) == expected
    assert same(load_recipe(path, ["evaluation.share_prefix=false"]), rows) == []


def test_nothing_is_kept_for_a_sweep_or_for_answers_that_are_generated(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path, BEHIND_BASE))
    rows = read_data(recipe, Reporter()).eval
    assert same(recipe, rows) == [(("base", "coarse", "fine"), 5)]
    assert same(load_recipe(write_recipe(tmp_path, BEHIND_BASE, "sweep: {grid: {rank: [1, 2]}}")), rows) == []
    written = [generation_example("t", row.example.prompt, row.example.answer, row.example.answer) for row in rows]
    assert same(recipe, Encoder(tiny.byte_tokenizer(), 256)(written)) == []


@pytest.mark.parametrize(("texts", "expected"), [(1, []), (8, [(("base", "coarse", "fine"), 5)])])
def test_questions_of_one_text_may_save_more_by_sharing_it_in_each_evaluation(tmp_path, texts, expected):
    """Eight questions of one text compute it once for all; kept prefixes are each question's own."""
    asked = [(f"{i % texts} {'a cat ' * 20}\n{i}?", f"text {i % texts}") for i in range(8)]
    examples = [choice_example("t", prompt, ("no", "yes"), 0, group=group) for prompt, group in asked]
    recipe = load_recipe(write_recipe(tmp_path, BEHIND_BASE))
    assert same(recipe, Encoder(tiny.byte_tokenizer(), 256)(examples)) == expected
