"""The loss of reference answers, against the model's own."""

import pytest
import torch

import tiny
from heft.data.encode import Encoder, training_batch
from heft.evaluation import evaluate
from heft.evaluation.references import reference_losses
from heft.tasks import load_examples
from heft.tasks.rows import RowsSettings

ROWS = [{"prompt": f"{n} and {n * 7} =", "completion": f"{n * 8} or so"[: 3 + n % 4].strip()} for n in range(1, 8)]
TASK = RowsSettings(train=ROWS, eval=ROWS, max_new_tokens=4)


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_model().eval()


def test_it_is_the_loss_that_transformers_computes_of_the_answers_labels(model):
    tokenizer = tiny.byte_tokenizer()
    rows = Encoder.of(tokenizer, TASK)(load_examples(TASK, "eval"))
    expected = []
    for row in rows:
        batch = training_batch([row], tokenizer.pad_token_id)
        batch.pop("prompt_lengths")
        with torch.no_grad():
            expected.append(model(**batch).loss.item())
    for batch_size in (1, 4):
        assert reference_losses(model, rows, batch_size, tokenizer.pad_token_id) == pytest.approx(expected, rel=1e-5)


def test_an_evaluation_of_generated_answers_has_it_with_rouge_l_and_chrf(model):
    found = evaluate(model, tiny.byte_tokenizer(), TASK)
    losses = [record.loss for record in found.records]
    assert found.metrics.loss == pytest.approx(sum(losses) / len(losses))
    assert 0 <= found.metrics.rouge_l <= 1
    assert 0 <= found.metrics.chrf <= 1
