"""Logits of some columns from classes whose `forward` takes other things than Llama's."""

import pytest
import torch
from torch import nn

import tiny
from heft.adapters.attach import attach
from heft.models.forward import logits_of, takes_prompt_lengths
from heft.recipe.recipe import ReftStage

INPUTS = {"input_ids": torch.arange(3, 20)[None], "attention_mask": torch.ones(1, 17, dtype=torch.long),
          "position_ids": torch.arange(17)[None]}  # fmt: skip


class Swallowing(nn.Module):
    """Takes anything and gives logits of all columns, as xLSTM does."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, input_ids, **kwargs):
        return self.inner(input_ids=input_ids)


class Narrow(nn.Module):
    """Takes ids only, as OpenAI's first GPT all but does."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, input_ids):
        return self.inner(input_ids=input_ids)


@pytest.mark.parametrize("wrap", [lambda model: model, Swallowing, Narrow])
@pytest.mark.parametrize("keep", [1, 3, torch.tensor([2, 5, 16]), torch.arange(17)])
@torch.no_grad()
def test_columns_asked_for_are_those_of_a_whole_pass(wrap, keep):
    model = tiny.tiny_model()
    whole = model(input_ids=INPUTS["input_ids"]).logits
    expected = whole[:, -keep:] if isinstance(keep, int) else whole[:, keep]
    found = logits_of(wrap(model), keep, **INPUTS, prompt_lengths=torch.tensor([9]), use_cache=False)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_columns_are_counted_in_embeddings_where_these_are_given_for_ids():
    model = tiny.tiny_model()
    embedded = model.get_input_embeddings()(INPUTS["input_ids"])
    expected = model(input_ids=INPUTS["input_ids"]).logits[:, -3:]
    assert torch.allclose(logits_of(model, 3, inputs_embeds=embedded, use_cache=False), expected, atol=1e-5)


def test_a_model_takes_prompt_lengths_once_a_reft_adapter_is_on_it():
    model = tiny.tiny_model()
    assert not takes_prompt_lengths(model)
    attach(model, "fine", ReftStage(method="reft", rank=2, steps=1))
    assert takes_prompt_lengths(model)
