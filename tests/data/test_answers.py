"""A text that the tokenizer gives back as another is compared as the model can write it."""

import unicodedata

import pytest
from tokenizers import normalizers

import tiny
from heft.data.answers import can_be_right, comes_back, is_right, written
from heft.data.encode import Encoder
from heft.evaluation import evaluate_examples, evaluator
from heft.recipe.recipe import EvaluationSettings
from heft.runtime.reporter import Reporter
from heft.tasks import task_for
from heft.tasks.example import generation_example
from heft.tasks.gsm8k import Gsm8kSettings
from heft.tasks.rows import RowsSettings
from tokenizers_made import metaspace_style

TASK = task_for(RowsSettings(train="t", eval="e"))


def nfc_tokenizer():
    tokenizer = tiny.byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def row(tokenizer, answer):
    return Encoder(tokenizer, 99)([generation_example("t", "Copy:", f" {answer}", answer)])[0]


@pytest.mark.parametrize("word", ["Cafe\u0301", "한국", "Viê\u0323t"])
def test_a_decomposed_reference_is_answered_by_what_the_tokens_give_back(word):
    tokenizer, decomposed = nfc_tokenizer(), unicodedata.normalize("NFD", word)
    encoded = row(tokenizer, decomposed)
    composed = written(encoded, tokenizer)
    assert composed.strip() == unicodedata.normalize("NFC", word) != decomposed
    assert is_right(TASK, encoded, composed, tokenizer)
    assert is_right(TASK, encoded, decomposed, tokenizer)
    assert not is_right(TASK, encoded, composed[:-1], tokenizer)
    assert can_be_right(TASK, encoded, tokenizer)
    assert not comes_back(TASK, encoded, tokenizer)


def test_an_evaluation_counts_answers_as_the_model_can_write_them(monkeypatch):
    tokenizer = nfc_tokenizer()
    rows = [row(tokenizer, "Cafe\u0301"), row(tokenizer, "tea")]
    monkeypatch.setattr(evaluator, "generate_texts", lambda *args, **options: [" Café", " Tea"])
    evaluation = evaluate_examples(tiny.tiny_model(), tokenizer, TASK, rows, EvaluationSettings(), Reporter())
    assert [record.correct for record in evaluation.records] == [True, False]


def test_a_reference_that_comes_back_is_compared_with_itself_alone():
    tokenizer = tiny.byte_tokenizer()
    encoded = row(tokenizer, "Café")
    assert comes_back(TASK, encoded, tokenizer)
    assert not is_right(TASK, encoded, unicodedata.normalize("NFD", "Café"), tokenizer)


def test_a_reference_that_the_tokenizer_has_no_token_for_is_never_right():
    tokenizer = metaspace_style()
    encoded = row(tokenizer, "yes ☃ no")
    assert tokenizer.unk_token_id not in encoded.answer  # it has bytes
    assert can_be_right(TASK, encoded, tokenizer)
    tokenizer = metaspace_style(byte_fallback=False)
    encoded = row(tokenizer, "yes ☃ no")
    assert tokenizer.unk_token_id in encoded.answer
    assert not can_be_right(TASK, encoded, tokenizer)
    assert not is_right(TASK, encoded, "yes  no", tokenizer)


def test_a_final_number_is_right_whatever_the_tokenizer_does_to_the_words_before_it():
    tokenizer, task = nfc_tokenizer(), task_for(Gsm8kSettings())
    example = generation_example("gsm8k", "Question: Q\nAnswer:", " Cafe\u0301s: 9 + 9\n#### 18", "18")
    (encoded,) = Encoder(tokenizer, 99)([example])
    assert can_be_right(task, encoded, tokenizer)
    assert comes_back(task, encoded, tokenizer)
    assert not is_right(task, encoded, "#### 19", tokenizer)
