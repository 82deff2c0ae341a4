"""Evaluation end to end on the tiny model."""

import json

import pytest
import torch
import transformers
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

import heft
from heft.builtin import TINY, byte_tokenizer
from heft.data.encode import Encoder
from heft.errors import HeftError
from heft.evaluation import evaluate_examples, scoring
from heft.harness.opening import opened_from
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import EvaluationSettings
from heft.runtime.reporter import Reporter
from heft.tasks import examples_of, task_for
from heft.tasks.rows import RowsSettings
from heft.tasks.whereabouts import WhereaboutsSettings
from tiny import tiny_model
from tolerance import rounded

BASE = load_base(ModelSettings(name=TINY, device="cpu"))
PAIRS = [{"prompt": "abc" * n, "completion": "x" * n} for n in (1, 4, 2)]


def test_records_follow_the_examples_and_agree_with_the_figures():
    task = WhereaboutsSettings(train_size=1, eval_size=20)
    result = heft.evaluate(BASE.model, BASE.tokenizer, task)
    examples = examples_of(task_for(task), "eval")
    assert [record.id for record in result.records] == [example.id for example in examples]
    for record, example in zip(result.records, examples, strict=True):
        best = max(range(4), key=lambda i: record.log_likelihoods[i])
        assert (record.gold, record.prediction, record.correct) == (example.gold, best, best == example.gold)
    assert result.metrics.accuracy == sum(record.correct for record in result.records) / 20


@pytest.mark.parametrize("kind", ["choices", "generated"])
def test_a_tokenizer_without_a_padding_token_pads_with_its_end_as_one_of_heft_does(kind):
    generated = RowsSettings(train=[{"prompt": "x", "completion": "y"}], eval=PAIRS, max_new_tokens=4)
    task = WhereaboutsSettings(train_size=1, eval_size=5, moves=2) if kind == "choices" else generated
    tokenizer = byte_tokenizer()
    expected = heft.evaluate(BASE.model, tokenizer, task)
    tokenizer.pad_token = None
    found = heft.evaluate(BASE.model, tokenizer, task)
    assert tokenizer.pad_token == tokenizer.eos_token
    for one, other in zip(found.records, expected.records, strict=True):
        assert (one.prediction, one.text) == (other.prediction, other.text)
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=1e-4)


def test_a_tokenizer_that_cannot_end_or_pad_rows_is_refused_in_words():
    task, tokenizer = WhereaboutsSettings(train_size=1, eval_size=5), byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    with pytest.raises(
        HeftError, match=r"that is given, '\[PAD\]', has the id 259, and the model has embeddings for 0 to 2"
    ):
        heft.evaluate(BASE.model, tokenizer, task)
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(HeftError, match="the tokenizer that is given has no EOS token"):
        heft.evaluate(BASE.model, tokenizer, task)


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_a_model_that_puts_tokens_of_its_own_before_a_text_is_refused(kind):
    """Prompt tuning moved the columns that were read as the answer's, and HeftLM left the tokens out."""
    model = get_peft_model(tiny_model(), kind(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    for evaluates in (
        lambda: heft.evaluate(model, BASE.tokenizer, WhereaboutsSettings(train_size=1, eval_size=5)),
        lambda: heft.predict(model, PAIRS, tokenizer=BASE.tokenizer, task={"name": "rows", "train": PAIRS}),
        lambda: opened_from(model, BASE.tokenizer),
    ):
        with pytest.raises(HeftError, match=r"of the type P\w+_TUNING puts tokens of its own before a text"):
            evaluates()


@pytest.mark.parametrize("name", ["LlamaForSequenceClassification", "T5ForConditionalGeneration"])
def test_what_is_no_causal_language_model_is_refused_in_words(name):
    small = {"num_layers": 1, "d_model": 8, "d_ff": 8, "num_heads": 1, "d_kv": 8, "vocab_size": 259}
    config = tiny_model().config if name.startswith("Llama") else transformers.T5Config(**small)
    with pytest.raises(HeftError, match=f"a {name} is no causal language model"):
        heft.evaluate(getattr(transformers, name)(config).eval(), BASE.tokenizer, WhereaboutsSettings())


def test_a_model_that_reads_ahead_is_refused_however_it_was_loaded():
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.BertConfig(**small, vocab_size=259, initializer_range=0.2, is_decoder=False)
    with pytest.raises(HeftError, match="'BertLMHeadModel' reads ahead"):
        heft.evaluate(transformers.BertLMHeadModel(config).eval(), BASE.tokenizer, WhereaboutsSettings())


def test_normalisation_divides_by_tokens_or_bytes():
    task = WhereaboutsSettings(train_size=1, eval_size=3)
    plain = heft.evaluate(BASE.model, BASE.tokenizer, task)
    for normalize in ("tokens", "bytes"):  # the same for a tokenizer of bytes
        divided = heft.evaluate(BASE.model, BASE.tokenizer, task, EvaluationSettings(normalize=normalize))
        for one, other in zip(plain.records, divided.records, strict=True):
            lengths = [len(" kitchen"), len(" garden"), len(" office"), len(" school")]
            expected = [score / length for score, length in zip(one.log_likelihoods, lengths, strict=True)]
            assert other.log_likelihoods == pytest.approx(expected)


def test_generated_answers_do_not_depend_on_the_batch_and_end_at_the_stop(tmp_path):
    rows = [{"prompt": "abc" * n, "completion": "x"} for n in (1, 4, 2)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = RowsSettings(train=str(path), eval=str(path), max_new_tokens=12)
    examples = Encoder(BASE.tokenizer, 256)(examples_of(task_for(settings), "eval"))

    def texts(batch_size, **options):
        task = task_for(settings.model_copy(update=options))
        evaluation = EvaluationSettings(batch_size=batch_size)
        result = evaluate_examples(BASE.model, BASE.tokenizer, task, examples, evaluation, Reporter())
        return [record.text for record in result.records]

    alone = texts(1)
    assert alone == texts(3)
    stop = alone[0][2:4]
    assert texts(1, stop=[stop])[0] == alone[0][: alone[0].index(stop)]


def test_an_adapter_that_edits_more_tokens_than_a_prompt_has_is_refused():
    from heft.adapters.attach import attach
    from heft.recipe.recipe import ReftStage

    base = load_base(ModelSettings(name=TINY, device="cpu"))
    attach(base.model, "fine", ReftStage(method="reft", positions="f900+l900", steps=1))
    with pytest.raises(HeftError, match="shorter than the 1800 positions"):
        heft.evaluate(base.model, base.tokenizer, WhereaboutsSettings(train_size=1, eval_size=2, max_length=4000))


class Notes(Reporter):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def runs_out_above(monkeypatch, most):
    """Memory for batches of at most so many rows."""
    real = scoring.choice_log_likelihoods

    def short(model, examples, batch_size, **rest):
        if batch_size > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, examples, batch_size=batch_size, **rest)

    monkeypatch.setattr(scoring, "choice_log_likelihoods", short)


def test_out_of_memory_starts_again_with_half_the_batch_size(monkeypatch):
    task, settings, reporter = WhereaboutsSettings(train_size=1, eval_size=6), EvaluationSettings(batch_size=8), Notes()
    expected = heft.evaluate(BASE.model, BASE.tokenizer, task, settings)
    runs_out_above(monkeypatch, most=3)
    found = heft.evaluate(BASE.model, BASE.tokenizer, task, settings, reporter)
    expected_notes = [f"evaluation: out of memory: batch size reduced to {n}, starting again" for n in (4, 2)]
    assert reporter.notes == expected_notes
    for one, other in zip(expected.records, found.records, strict=True):
        assert other.log_likelihoods == rounded(one.log_likelihoods)


def test_memory_that_does_not_suffice_for_a_batch_of_one_is_one_message(monkeypatch):
    runs_out_above(monkeypatch, most=0)
    with pytest.raises(HeftError, match="does not suffice for a batch of one; lower task.max_length"):
        heft.evaluate(BASE.model, BASE.tokenizer, WhereaboutsSettings(train_size=1, eval_size=2))


def test_out_of_memory_ends_the_evaluation_of_a_sharded_model_of_which_one_process_cannot_halve_alone(monkeypatch):
    monkeypatch.setattr(scoring, "is_sharded", lambda model: True)
    runs_out_above(monkeypatch, most=3)
    task, reporter = WhereaboutsSettings(train_size=1, eval_size=6), Notes()
    with pytest.raises(torch.OutOfMemoryError):
        heft.evaluate(BASE.model, BASE.tokenizer, task, EvaluationSettings(batch_size=8), reporter)
    assert reporter.notes == []
