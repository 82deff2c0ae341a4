"""From settings to examples: faults, limits, ids."""

import pytest

from heft.errors import HeftError
from heft.tasks import examples_of, load_examples
from heft.tasks.boolq import Boolq, BoolqSettings
from heft.tasks.example import choice_example, generation_example
from heft.tasks.loading import sampled_indices, with_unique_ids
from heft.tasks.piqa import PiqaSettings
from heft.tasks.whereabouts import Whereabouts, WhereaboutsSettings


def boolq_rows(count: int) -> list[dict]:
    return [
        {"question": f"is it {number}", "passage": f"Number {number}.", "answer": number % 2 == 0}
        for number in range(count)
    ]


def test_each_split_is_read_from_the_file_that_the_settings_name(rows_folder):
    rows_folder(boolq_rows(3), "small")
    folder = rows_folder(boolq_rows(5), "dev")
    settings = BoolqSettings(source=folder, train_split="small", eval_split="dev")
    assert [len(load_examples(settings, split)) for split in ("train", "eval")] == [3, 5]
    with pytest.raises(ValueError, match="'train' or 'eval'"):
        load_examples(settings, "dev")


def test_a_task_object_gives_what_its_settings_give(rows_folder):
    settings = BoolqSettings(source=rows_folder(boolq_rows(4)))
    assert examples_of(Boolq(settings), "eval") == load_examples(settings, "eval")


def test_every_malformed_row_is_reported_with_its_place(rows_folder):
    rows = [*boolq_rows(2), {"question": "is it"}, {"question": 3, "passage": "p", "answer": True}]
    folder = rows_folder(rows)
    with pytest.raises(HeftError) as raised:
        load_examples(BoolqSettings(source=folder), "eval")
    assert str(raised.value).splitlines() == [
        "boolq: 2 of 4 eval rows cannot be used:",
        f"  {folder}/validation.jsonl:3: passage is missing (the row has question); "
        "answer is missing (the row has question)",
        f'  {folder}/validation.jsonl:4: question must be text; got 3; if this is its text, put it in quotes: "3"',
    ]


def test_a_cause_is_shown_once_with_its_first_ten_places(rows_folder):
    row = {"goal": "g", "sol1": "a", "sol2": "b", "label": -1}
    with pytest.raises(HeftError) as raised:
        load_examples(PiqaSettings(source=rows_folder([row] * 1234)), "eval")
    first, second = str(raised.value).splitlines()
    assert first == "piqa: 1,234 of 1,234 eval rows cannot be used:"
    assert second.endswith(
        ":1: label must be one of 0, 1; got -1 (and in 1,233 more: :2, :3, :4, :5, :6, :7, :8, :9, :10, …)"
    )


def test_ten_faults_are_shown_and_the_rest_counted(rows_folder):
    rows = [{"goal": "g", "sol1": "a", "sol2": "b", "label": -number} for number in range(1, 1235)]
    with pytest.raises(HeftError) as raised:
        load_examples(PiqaSettings(source=rows_folder(rows)), "eval")
    lines = str(raised.value).splitlines()
    assert lines[0] == "piqa: 1,234 of 1,234 eval rows cannot be used:"
    assert len(lines) == 12
    assert lines[1].endswith("validation.jsonl:1: label must be one of 0, 1; got -1")
    assert lines[-1].strip() == "… and 1,224 more"


def test_limits_keep_nested_subsets_in_the_source_order_and_act_on_their_own_split(rows_folder):
    rows_folder(boolq_rows(40), "train")
    folder = rows_folder(boolq_rows(40))
    whole = load_examples(BoolqSettings(source=folder), "eval")
    previous: set[str] = set()
    for limit in (1, 2, 4, 8, 16, 32, 40, 99):
        settings = BoolqSettings(source=folder, eval_limit=limit)
        kept = load_examples(settings, "eval")
        assert len(kept) == min(limit, 40)
        assert kept == [example for example in whole if example in kept]
        assert previous <= {example.id for example in kept}
        assert len(load_examples(settings, "train")) == 40
        previous = {example.id for example in kept}
    assert len(load_examples(BoolqSettings(source=folder, train_limit=7), "train")) == 7


def test_another_seed_keeps_other_rows():
    assert sampled_indices(1000, 10, 0) == sampled_indices(1000, 10, 0)
    assert sampled_indices(1000, 10, 0) != sampled_indices(1000, 10, 1)
    assert sampled_indices(1000, 10, 0) != list(range(10))


def test_repeated_content_gets_numbered_ids_that_no_limit_changes(rows_folder):
    row, other = boolq_rows(2)
    folder = rows_folder([row, other, row, row])
    ids = [example.id for example in load_examples(BoolqSettings(source=folder), "eval")]
    assert ids == [ids[0], ids[1], f"{ids[0]}-2", f"{ids[0]}-3"]
    for seed in range(6):
        limited = load_examples(BoolqSettings(source=folder, eval_limit=2, sample_seed=seed), "eval")
        assert {example.id for example in limited} <= set(ids)
    assert [e.id for e in with_unique_ids([choice_example("t", "q", "ab", 0)])] == [
        choice_example("t", "q", "ab", 0).id
    ]


class _Mixed(Whereabouts):
    """Every other row has no choices."""

    def example(self, row):
        made = super().example(row)
        return made if made.gold else generation_example("mixed", made.prompt, made.answer, made.answer.strip())


def test_rows_to_evaluate_all_have_choices_or_none_has():
    task = _Mixed(WhereaboutsSettings(train_size=20, eval_size=20))
    with pytest.raises(
        HeftError, match=r"row \d+ has choices, .* the answer to whereabouts\[eval\] row \d+ is generated"
    ):
        examples_of(task, "eval")
    assert len(examples_of(task, "train")) == 20
