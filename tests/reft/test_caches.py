"""Recurrent models: caches that are no keys and values edit the same tokens as no cache at all."""

import pytest
import torch

from reft.odd_models import odd_model
from reft.support import counted_edits, logits, token_ids, with_reft

RECURRENT = ["mamba", "mamba2", "falcon_mamba", "xlstm"]
OPTIONS = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "output_logits": True}
OPTIONS |= {"return_dict_in_generate": True}


def prompts(rows: int, padded: bool) -> dict[str, torch.Tensor]:
    ids, mask = token_ids(rows, 8), torch.ones(rows, 8, dtype=torch.long)
    if padded:
        ids[0, :3], mask[0, :3] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("name", [*RECURRENT, "rwkv"])
@pytest.mark.parametrize("positions", ["f1", "f2+l2", "all"])
def test_generation_with_a_recurrent_cache_has_the_logits_of_one_without(name, positions):
    # transformers' RWKV mixes the rows of a batch where it decodes from its state, also without heft
    model, inputs = with_reft(odd_model(name), positions=positions), prompts(1 if name == "rwkv" else 2, False)
    cached, plain = (model.generate(**inputs, use_cache=use, **OPTIONS) for use in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    expected = torch.stack(plain.logits)
    assert torch.allclose(torch.stack(cached.logits), expected, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["mamba", "mamba2", "falcon_mamba"])
def test_a_padded_batch_on_a_recurrent_cache_gives_the_tokens_of_each_row_alone(name):
    model, inputs = with_reft(odd_model(name), positions="f1+l2"), prompts(2, True)
    together = model.generate(**inputs, **OPTIONS).sequences[:, 8:]
    alone = model.generate(inputs["input_ids"][:1, 3:], **OPTIONS).sequences[:, 5:]
    assert torch.equal(together[0], alone[0])


@pytest.mark.parametrize("name", [*RECURRENT, "rwkv"])
def test_decoding_steps_on_a_recurrent_cache_are_not_edited(name):
    model = with_reft(odd_model(name), layers=[0], positions="f1+l1")
    with counted_edits(model) as counts:
        model.generate(**prompts(1, False), **OPTIONS)
    assert counts == [2]


@pytest.mark.parametrize("name", RECURRENT)
def test_a_second_call_on_a_recurrent_cache_goes_on_behind_the_first_calls_prompt(name):
    model, ids = with_reft(odd_model(name), positions="f1+l2"), token_ids(1, 9)
    whole = logits(model, ids, prompt_lengths=[6], use_cache=False)
    with torch.no_grad():
        cache = model(input_ids=ids[:, :8], prompt_lengths=[6], use_cache=True).cache_params
    rest = logits(model, ids[:, 8:], cache_params=cache, use_cache=True)
    assert torch.allclose(rest[:, -1], whole[:, -1], atol=1e-5 * whole.abs().max().item())


def test_a_mask_of_the_new_tokens_alone_goes_on_behind_the_padding_of_the_first_call():
    model, inputs = with_reft(odd_model("mamba"), layers=[0], positions="l2"), prompts(2, True)
    with torch.no_grad():
        cache = model(**inputs, prompt_lengths=[6, 9], use_cache=True).cache_params
    with counted_edits(model) as counts, torch.no_grad():
        new = torch.ones(2, 1, dtype=torch.long)
        model(input_ids=token_ids(2, 1), attention_mask=new, cache_params=cache, prompt_lengths=[6, 9], use_cache=True)
    assert counts == [2], "token 5 of the first row and token 8 of the second are the last of their prompts"


def test_a_state_that_does_not_say_what_it_holds_is_refused_for_prompt_positions():
    for positions in ("l1", "all"):
        model, ids = with_reft(odd_model("rwkv"), positions=positions), token_ids(1, 6)
        with torch.no_grad():
            state = model(input_ids=ids[:, :5], use_cache=True).state
        if positions == "all":
            assert logits(model, ids[:, 5:], state=state, use_cache=True).shape == (1, 1, 259)
            continue
        with pytest.raises(ValueError, match=r"the cache's length is unknown.*model\.generate"):
            model(input_ids=ids[:, 5:], state=state, use_cache=True)


def test_a_recurrent_cache_that_the_bare_base_filled_is_refused_for_prompt_positions():
    base = odd_model("mamba")
    with torch.no_grad():
        cache = base(input_ids=token_ids(1, 5), use_cache=True).cache_params
    with pytest.raises(ValueError, match="the cache's length is unknown"):
        with_reft(base, positions="l1")(input_ids=token_ids(1, 1), cache_params=cache)


def test_a_mask_that_leaves_out_the_cache_is_refused_with_the_shape_it_must_have():
    model, ids = with_reft(positions="l1"), token_ids(2, 6)
    cache = model(input_ids=ids[:, :4], use_cache=True).past_key_values
    del cache._heft_seen
    with pytest.raises(ValueError, match=r"covers 2 of 6 tokens, those in the cache included.*\(2, 6\)"):
        model(input_ids=ids[:, 4:], past_key_values=cache, attention_mask=torch.ones(2, 2))
