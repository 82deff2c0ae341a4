"""HellaSwag."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heft.errors import HeftError
from heft.tasks import load_examples
from heft.tasks.hellaswag import Hellaswag, HellaswagSettings, cleaned

ROW = {
    "ctx": "Baking: A chef shows pans. The pans",
    "endings": ["fly.", "sing.", "are hot.", ", he says."],
    "label": "2",
}
HUB_ROW = {
    "activity_label": "Baking",
    "ctx_a": "A chef shows pans.",
    "ctx_b": "the pans",
    "ctx": "A chef shows pans. the pans",
    "endings": ["fly.", "sing.", "are  hot.", "[step] , he says."],
    "label": "2",
}


def test_letters_prompt():
    example = Hellaswag(HellaswagSettings()).example(ROW)
    assert example.prompt == (
        "Baking: A chef shows pans. The pans\nWhich ending continues the text?\n"
        "A. fly.\nB. sing.\nC. are hot.\nD. , he says.\nAnswer:"
    )
    assert (example.choices, example.gold) == ((" A", " B", " C", " D"), 2)


def test_cloze_prompt_and_choices():
    example = Hellaswag(HellaswagSettings(format="cloze")).example(ROW)
    assert example.prompt == "Baking: A chef shows pans. The pans"
    assert (example.choices, example.gold) == ((" fly.", " sing.", " are hot.", " , he says."), 2)


@pytest.mark.parametrize("choice_format", ["letters", "cloze"])
def test_a_raw_row_of_the_hub_gives_the_same_example_as_its_cleaned_form(choice_format):
    task = Hellaswag(HellaswagSettings(format=choice_format))
    assert task.example(HUB_ROW) == task.example(ROW)


def test_cleaning_turns_titles_into_sentence_ends_and_drops_other_marks():
    assert cleaned("How to bake [title] Heat the oven. [step] Wait  an hour. ") == (
        "How to bake. Heat the oven. Wait an hour."
    )


@given(
    st.text(alphabet="a [].\n\ttile", max_size=40)
    | st.lists(st.sampled_from([" [title]", "[", "]", "  ", "x"])).map("".join)
)
def test_cleaning_twice_is_cleaning_once(text):
    assert cleaned(cleaned(text)) == cleaned(text)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"label": ""}, "label is empty"),
        ({"label": "4"}, "label must be one of '0', '1', '2', '3'; got '4'"),
        ({"endings": ["a", "b", "c"]}, "endings must have 4 options; got 3"),
        ({"endings": ["a", "b", "c", 4]}, "endings must be texts that are not empty; got 4"),
        ({"endings": ["a", "b", "c", "[x]"]}, "without bracketed marks"),
    ],
)
def test_malformed_rows_are_refused(rows_folder, change, fault):
    with pytest.raises(HeftError, match=f"validation.jsonl:1: .*{fault}"):
        load_examples(HellaswagSettings(source=rows_folder([{**ROW, **change}])), "eval")


def test_the_real_validation_rows_are_10042_and_keep_their_text(shared_folder):
    folder = shared_folder("hellaswag")
    examples = load_examples(HellaswagSettings(source=folder, format="cloze"), "eval")
    lines = (Path(folder) / "validation.jsonl").read_text(encoding="utf-8").split("\n")
    contexts = [json.loads(line)["ctx"].strip() for line in lines if line]
    assert len(examples) == 10042
    assert [example.prompt for example in examples] == contexts
