"""Models that padding changes get rows of one length together; all others are padded."""

import pytest
import torch
import transformers

import heft
import tiny
from heft.data.batching import batches_of_like_length
from heft.data.encode import Encoder
from heft.data.padding import padding_matters
from heft.evaluation.evaluator import evaluate_examples
from heft.evaluation.generation import generate_texts
from heft.evaluation.likelihood import plain_log_likelihoods
from heft.evaluation.scoring import score_choices
from heft.recipe.files import load_recipe
from heft.recipe.recipe import EvaluationSettings
from heft.runtime.reporter import Reporter
from heft.tasks import load_examples, task_for
from heft.tasks.example import choice_example, generation_example
from heft.tasks.rows import RowsSettings
from heft.tasks.whereabouts import WhereaboutsSettings
from tolerance import rounded

TASK = WhereaboutsSettings(train_size=8, eval_size=6, people=3)


def bart():
    """Its positions are columns, so padding on the left moves a row."""
    config = transformers.BartConfig(
        vocab_size=259, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64, init_std=0.2,
        max_position_embeddings=512, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.BartForCausalLM(config).eval().requires_grad_(False)


def test_padding_matters_where_positions_are_columns():
    assert padding_matters(bart(), 0, 64)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_padding_does_not_matter_where_positions_count_tokens(architecture):
    assert not padding_matters(tiny.tiny_model(architecture), 0, 64)


def test_a_longer_row_beside_it_matters_where_positions_are_scaled_by_the_longest():
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    model = tiny.tiny_model(rope_parameters=rope, max_position_embeddings=64)
    short, long = torch.arange(3, 50)[None], torch.arange(3, 100)
    assert not padding_matters(model, 0, 64)
    assert padding_matters(model, 0, 65)
    beside = torch.stack([torch.cat([torch.zeros(50, dtype=torch.long), short[0]]), long])
    mask = (beside > 0).long()
    with torch.no_grad():
        alone = model(input_ids=short).logits[0, -1]
        model.model.rotary_emb.to("cpu")
        together = model(input_ids=beside, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
    assert (together.logits[0, -1] - alone).abs().max() > 1e-3


def test_batches_of_equal_length_hold_each_row_once_and_never_another_length():
    lengths = [3, 5, 3, 3, 7, 5, 3]
    batches = batches_of_like_length(lengths, 2, 100, equal=True)
    assert sorted(row for batch in batches for row in batch) == list(range(7))
    assert all(len({lengths[row] for row in batch}) == 1 and len(batch) <= 2 for batch in batches)


def test_an_evaluation_gives_each_row_what_it_gets_alone():
    model, tokenizer = bart(), tiny.byte_tokenizer()
    examples = Encoder(tokenizer, 512)(load_examples(TASK, "eval"))
    assert len({len(example.prompt) for example in examples}) > 1
    found = evaluate_examples(model, tokenizer, task_for(TASK), examples, EvaluationSettings(), Reporter())
    alone = [plain_log_likelihoods(model, [example], 1, 0)[0] for example in examples]
    for record, scores in zip(found.records, alone, strict=True):
        assert record.log_likelihoods == pytest.approx(tuple(scores), abs=1e-3)


def test_answers_are_generated_one_by_one():
    model, tokenizer = bart(), tiny.byte_tokenizer()
    task = RowsSettings(train="x", eval="x", max_new_tokens=4)
    rows = [generation_example("t", "Short", " a", "a"), generation_example("t", "Somewhat longer", " b", "b")]
    examples = Encoder(tokenizer, 64)(rows)
    found = evaluate_examples(model, tokenizer, task_for(task), examples, EvaluationSettings(), Reporter())
    for record, example in zip(found.records, examples, strict=True):
        (alone,) = generate_texts(model, tokenizer, [example.prompt], batch_size=1, max_new_tokens=4)
        assert record.text == alone
    together = generate_texts(model, tokenizer, [e.prompt for e in examples], batch_size=2, max_new_tokens=4)
    assert together != [record.text for record in found.records], "the case would show nothing"


def test_choices_are_scored_as_if_alone_where_the_longest_row_scales_the_positions_of_all():
    """Which is here a prompt of 56 tokens, less than the model was made for, with the longer of its choices."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 8.0}
    model = tiny.tiny_model(rope_parameters=rope, max_position_embeddings=64)
    examples = Encoder(tiny.byte_tokenizer(), 256)(
        [choice_example("t", "ab" * n, ("no", "perhaps not"), 0) for n in (25, 28)]
    )
    found = score_choices(model, 0, examples, EvaluationSettings(), 8, Reporter(), "evaluation")
    for scores, example in zip(found, examples, strict=True):
        assert scores == rounded(plain_log_likelihoods(model, [example], 1, 0)[0])
    together = plain_log_likelihoods(model, examples, 8, 0)
    assert max(abs(a - b) for a, b in zip(sum(together, []), sum(found, []), strict=True)) > 1e-3


def test_training_on_rows_of_one_length_is_training_on_rows_alone(tmp_path):
    bart().save_pretrained(tmp_path / "model")
    tiny.byte_tokenizer().save_pretrained(tmp_path / "model")
    losses = []
    for micro in (8, 1):
        path = tmp_path / f"{micro}.yaml"
        path.write_text(
            f"name: x\nmodel: {{name: '{tmp_path / 'model'}', dtype: float32}}\n"
            "task: {name: whereabouts, train_size: 8, eval_size: 4, people: 3}\n"
            "stages: {fine: {method: reft, positions: l2, rank: 2, steps: 3, batch_size: 8, "
            f"micro_batch_size: {micro}, learning_rate: 1e-2}}}}\n"
        )
        heard = []
        reporter = Reporter()
        reporter.note, reporter.metrics = (lambda text: None), heard.append
        heft.train(load_recipe(path, output=str(tmp_path / f"run-{micro}")), reporter)
        losses.append([values["loss"] for values in heard if "loss" in values])
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
