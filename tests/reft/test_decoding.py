"""Generation: the cache, beams and chunks change nothing, and decode steps are not taken for prompts (mistake 5)."""

import pytest
import torch
from transformers import StaticCache

from reft.support import counted_edits, logits, token_ids, with_reft
from tiny import tiny_model

NEW = 6
CASES = [("llama", "f2+l3"), ("llama", "all"), ("gemma3", "f2+l3"), ("mistral", "l2"), ("gpt2", "f2+l3"), ("phi", "f1")]


def left_padded_prompts() -> dict[str, torch.Tensor]:
    ids, mask = token_ids(2, 10), torch.ones(2, 10, dtype=torch.long)
    mask[0, :4] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def generate(model, inputs=None, **kwargs):
    """(tokens, logits of every step), greedy unless told otherwise, always NEW tokens."""
    inputs = left_padded_prompts() if inputs is None else inputs
    out = model.generate(
        **inputs,
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **kwargs,
    )
    return out.sequences, torch.stack(out.logits)


def assert_same(one, two) -> None:
    assert torch.equal(one[0], two[0])
    assert torch.allclose(one[1], two[1], atol=1e-5)


@pytest.mark.parametrize(("architecture", "positions"), CASES)
def test_mistake_5_decoding_gives_the_same_tokens_and_logits_with_and_without_cache(architecture, positions):
    model = with_reft(architecture, positions=positions)
    assert_same(generate(model), generate(model, use_cache=False))


def test_the_first_generated_logits_are_those_of_a_plain_forward_pass():
    model, inputs = with_reft(positions="f2+l3"), left_padded_prompts()
    numbers = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    plain = logits(model, inputs["input_ids"], attention_mask=inputs["attention_mask"], position_ids=numbers)
    assert torch.allclose(generate(model)[1][0], plain[:, -1], atol=1e-5)


def test_each_decoded_token_equals_the_full_pass_at_the_same_prompt_length():
    model, ids = with_reft(positions="f2+l3"), token_ids(2, 8)
    tokens, steps = generate(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    whole = logits(model, tokens, prompt_lengths=[8, 8])
    assert torch.allclose(steps.transpose(0, 1), whole[:, 7:-1], atol=1e-5)


@pytest.mark.parametrize("positions", ["f2+l3", "all"])
def test_a_row_is_generated_alone_as_in_a_padded_batch(positions):
    model, inputs = with_reft(positions=positions), left_padded_prompts()
    alone = {"input_ids": inputs["input_ids"][:1, 4:], "attention_mask": inputs["attention_mask"][:1, 4:]}
    together, single = generate(model), generate(model, alone)
    assert torch.equal(together[0][0, 4:], single[0][0])
    assert torch.allclose(together[1][:, 0], single[1][:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("positions", "per_step"), [("f2+l3", [10]), ("l1", [2]), ("f20", [16]), ("all", [16] + [2] * (NEW - 1))]
)
def test_decode_steps_are_never_edited_for_prompt_positions_and_always_for_all(positions, per_step):
    """10 and 6 prompt tokens; a list entry is the number of tokens that one pass edits."""
    model = with_reft(layers=[0], positions=positions)
    with counted_edits(model) as counts:
        generate(model)
    assert counts == per_step


def test_without_a_cache_the_answer_never_becomes_part_of_the_prompt():
    model = with_reft(layers=[0], positions="f1+l1")
    with counted_edits(model) as counts:
        generate(model, use_cache=False)
    assert counts == [4] * NEW


@pytest.mark.parametrize("positions", ["f2+l3", "all"])
def test_beams_with_and_without_the_cache_are_the_same(positions):
    model = with_reft(positions=positions)
    assert_same(generate(model, num_beams=3), generate(model, num_beams=3, use_cache=False))


@pytest.mark.parametrize("chunk", [1, 3, 4, 7])
@pytest.mark.parametrize("with_mask", [True, False], ids=["mask", "no_mask"])
def test_a_prefill_in_chunks_gives_the_same_even_where_padding_fills_a_chunk(chunk, with_mask):
    model, inputs = with_reft(positions="f2+l3"), left_padded_prompts()
    if not with_mask:  # generate tells the padding from the padding token
        del inputs["attention_mask"]
    assert_same(generate(model, inputs), generate(model, inputs, prefill_chunk_size=chunk))


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mistral"])
def test_a_static_cache_gives_the_same_with_a_window_shorter_than_the_prompt(architecture):
    window = {"sliding_window": 4} if architecture != "llama" else {}
    model = with_reft(tiny_model(architecture, **window), positions="f3+l2")
    assert_same(generate(model), generate(model, cache_implementation="static"))


def test_a_static_cache_filled_by_hand_gives_the_same():
    model, ids = with_reft(positions="f2+l2"), token_ids(2, 7)
    cache = StaticCache(config=model.config, max_cache_len=16)
    assert torch.allclose(logits(model, ids, past_key_values=cache), logits(model, ids), atol=1e-5)


def test_sampled_and_repeated_rows_keep_their_prompts():
    model, inputs = with_reft(layers=[0], positions="f1+l1"), left_padded_prompts()
    with counted_edits(model) as counts:
        model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=True, num_return_sequences=4)
    assert counts == [16]


def test_a_prompt_as_embeddings_is_generated_from_like_its_ids():
    model, ids = with_reft(positions="f2+l3"), token_ids(2, 8)
    embeddings = model.get_input_embeddings()(ids)
    one = generate(model, {"inputs_embeds": embeddings, "attention_mask": torch.ones_like(ids)})
    two = generate(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert torch.equal(one[0], two[0][:, 8:])
    assert torch.allclose(one[1], two[1], atol=1e-5)


@pytest.mark.parametrize("given", [1, 3, 8])
def test_embeddings_are_the_prompt_however_many_ids_stand_beside_them(given):
    model, ids = with_reft(positions="f2+l3"), token_ids(2, 8)
    inputs = {"inputs_embeds": model.get_input_embeddings()(ids), "attention_mask": torch.ones_like(ids)}
    one, two = generate(model, {**inputs, "input_ids": ids[:, :given]}), generate(model, inputs)
    assert torch.equal(one[0][:, given:], two[0])
    assert torch.allclose(one[1], two[1], atol=1e-5)


@pytest.mark.parametrize("other", [None, 3, 12], ids=["last token", "shorter", "longer"])
@pytest.mark.parametrize("positions", ["l1", "f2+l3", "l2+", "lora l2"])
def test_guidance_runs_a_second_prompt_with_positions_of_its_own(positions, other):
    model, ids, scale = with_reft(positions=positions), token_ids(2, 8), 1.5
    negative = {} if other is None else {"negative_prompt_ids": token_ids(2, other, seed=3)}
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    tokens, _ = generate(model, inputs, guidance_scale=scale, **negative)
    mine, others = ids, negative.get("negative_prompt_ids", ids[:, -1:])
    lengths = mine.shape[1], others.shape[1]
    for _ in range(NEW):
        wanted, unwanted = (
            logits(model, each, prompt_lengths=[length] * 2)[:, -1].log_softmax(-1)
            for each, length in zip((mine, others), lengths, strict=True)
        )
        chosen = (unwanted + scale * (wanted - unwanted)).argmax(-1, keepdim=True)
        mine, others = torch.cat([mine, chosen], 1), torch.cat([others, chosen], 1)
    assert torch.equal(tokens, mine)


def test_guidance_without_a_cache_is_refused_for_prompt_positions():
    inputs = {"input_ids": token_ids(2, 8), "attention_mask": torch.ones(2, 8, dtype=torch.long)}
    with pytest.raises(ValueError, match="guidance_scale"):
        generate(with_reft(positions="l1"), inputs, guidance_scale=1.5, use_cache=False)
    model = with_reft(positions="all")
    guided = generate(model, inputs, guidance_scale=1.5)
    assert_same(generate(model, inputs, guidance_scale=1.5, use_cache=False), guided)


def test_generation_that_fails_leaves_the_model_as_it_was():
    model, ids = with_reft(), token_ids(2, 6)
    before = logits(model, ids)
    with pytest.raises(ValueError, match="not_an_option"):
        model.generate(input_ids=ids, not_an_option=1)
    assert torch.equal(logits(model, ids), before)
