"""The loss of a batch against the plain definition."""

import pytest
import torch
from torch.nn import functional as F

import tiny
from heft.adapters.attach import attach
from heft.data.encode import Encoder, training_batch
from heft.recipe.recipe import ReftStage
from heft.tasks.example import generation_example
from heft.training.loss import answer_loss
from tolerance import assert_gradients, rounded

TEXTS = [("A short one:", " yes"), ("Something quite a bit longer than that:", " no it is not"), ("Q", " 1")]


def rows(texts=TEXTS):
    return Encoder(tiny.byte_tokenizer(), 256)([generation_example("t", p, a, a) for p, a in texts])


def model_with_edit(architecture="llama"):
    model = tiny.tiny_model(architecture)
    attach(model, "fine", ReftStage(method="reft", rank=2, positions="f1+l2", intervention="consreft", steps=1))
    return model


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_it_is_the_sum_over_answer_tokens_of_rows_taken_alone_with_all_logits(architecture):
    model = model_with_edit(architecture)
    expected = torch.tensor(0.0)
    for row in rows():
        ids = torch.tensor([row.prompt + row.answer])
        logits = model(ids, prompt_lengths=[len(row.prompt)]).logits[0]
        start = len(row.prompt)
        expected = expected + F.cross_entropy(logits[start - 1 : -1], ids[0, start:], reduction="sum")
    total = answer_loss(model, training_batch(rows(), 0))
    assert total.item() == rounded(expected.item())


def test_gradients_equal_those_of_rows_taken_alone():
    model = model_with_edit()
    answer_loss(model, training_batch(rows(), 0)).backward()
    batched = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    for row in rows():
        answer_loss(model, training_batch([row], 0)).backward()
    assert_gradients(batched, {n: p.grad for n, p in model.named_parameters() if p.requires_grad})


def test_the_head_works_on_answer_columns_only():
    model = tiny.tiny_model()
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    batch = training_batch(rows(), 0)
    answer_loss(model, batch)
    longest = max(len(row.answer) for row in rows())
    assert seen == [(3, longest, 259)]
