"""ROUGE-L and chrF, against cases worked out by hand and the libraries' own."""

import pytest
from rouge_score.rouge_scorer import RougeScorer

from heft.results.metrics import measure
from heft.results.records import Record
from heft.results.texts import chrf, rouge_l


def test_rouge_l_is_the_longest_common_subsequence_of_words():
    # "police kill the gunman" and "police killed the gunman": police the gunman, 3 of 4 words on both sides
    assert rouge_l(["police kill the gunman"], ["police killed the gunman"]) == pytest.approx(0.75)
    assert rouge_l(["a b", "x"], ["a b", "y"]) == pytest.approx(0.5)


def test_ascii_texts_have_the_words_of_rouge_scores_own_tokenizer():
    pairs = [("It's 3.5 km, isn't_it?", "it is 3 km isn t it"), ("A-b c", "a b-C")]
    own = RougeScorer(["rougeL"])
    expected = [own.score(right, text)["rougeL"].fmeasure for text, right in pairs]
    assert [rouge_l([text], [right]) for text, right in pairs] == pytest.approx(expected)


def test_texts_in_other_scripts_have_words_too():
    assert rouge_l(["Привет, мир"], ["привет мир"]) == 1.0
    assert rouge_l(["नमस्ते, दुनिया!"], ["नमस्ते दुनिया"]) == 1.0
    assert rouge_l(["का"], ["की"]) == 0.0  # two words of one consonant, which only the marks tell apart
    assert rouge_l(["राम का घर"], ["राम की घर"]) == pytest.approx(2 / 3)  # two of three words
    assert rouge_l(["nai\u0308ve"], ["nai ve"]) == 0.0
    assert rouge_l(["so \u2764\ufe0f good"], ["so good"]) == 1.0  # a picture and what chooses its form are no words


def test_chrf_is_one_for_equal_texts_and_nought_for_those_with_nothing_in_common():
    assert chrf(["the same"], ["the same"]) == pytest.approx(1.0)
    assert chrf(["aaaa"], ["bbbb"]) == 0.0


def test_figures_of_texts_are_measured_where_texts_are_the_answers():
    records = [
        Record("a", "yes it is", "yes it is", True, text="yes it is", loss=0.5),
        Record("b", "no", "yes", False, text="yes", loss=1.5),
    ]
    metrics = measure(records, texts=True)
    assert (metrics.accuracy, metrics.loss, metrics.rouge_l) == (0.5, 1.0, 0.5)
    assert 0 < metrics.chrf < 1
    assert measure(records).rouge_l is None
