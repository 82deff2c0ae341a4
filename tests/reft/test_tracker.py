"""Where the prompt is in a forward pass, seen from outside by which tokens change (mistakes 3, 5 and 6 of others)."""

import pytest
import torch
from peft import get_peft_model
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from transformers import DynamicCache, LlamaConfig, LlamaForSequenceClassification

from heft.edits.arithmetic import orthonormal_rows
from heft.reft import ReftConfig
from heft.reft.tracker import tracker_of
from reft.support import counted_edits, edited_tokens, logits, reft_layers, reft_parameters, token_ids, with_reft
from tiny import ARCHITECTURES, COMMON, tiny_model

PROMPT, ANSWER = token_ids(1, 6)[0], token_ids(1, 3, seed=1)[0]


def padded(rows: list[torch.Tensor], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), each row padded with zeros on that side."""
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, place], mask[i, place] = row, 1
    return ids, mask


def answer_labels(ids: torch.Tensor, answer_columns: list[range]) -> torch.Tensor:
    labels = torch.full_like(ids, -100)
    for i, columns in enumerate(answer_columns):
        labels[i, list(columns)] = ids[i, list(columns)]
    return labels


def test_mistake_6_l1_edits_the_last_prompt_token():
    assert edited_tokens(with_reft(layers=[0], positions="l1"), PROMPT[None]) == [{5}]


@pytest.mark.parametrize(
    ("positions", "tied", "expected"),
    [
        ("f2+l2", True, {0, 1, 4, 5}),
        ("f2+l2", False, {0, 1, 4, 5}),
        ("f3", True, {0, 1, 2}),
        ("l2", True, {4, 5}),
        ("all", True, set(range(9))),
    ],
)
def test_explicit_lengths_labels_and_the_attended_input_agree(positions, tied, expected):
    model = with_reft(layers=[0], positions=positions, tied=tied)
    ids = torch.cat([PROMPT, ANSWER])[None]
    labels = answer_labels(ids, [range(6, 9)])
    assert edited_tokens(model, ids, prompt_lengths=[6]) == [expected]
    assert edited_tokens(model, ids, labels=labels) == [expected]
    assert edited_tokens(model, ids, prompt_lengths=torch.tensor([6]), labels=ids) == [expected]  # explicit wins
    assert edited_tokens(model, PROMPT[None]) == [expected - {6, 7, 8}]  # the input alone is the prompt


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
def test_mistake_5_padding_on_either_side_edits_the_same_tokens_with_the_same_result(side, architecture):
    rows = [PROMPT, PROMPT[:4], token_ids(1, 9, seed=3)[0]]
    model = with_reft(architecture, layers=[0], positions="f1+l2")
    ids, mask = padded(rows, side)
    offsets = [(9 - len(row)) if side == "left" else 0 for row in rows]
    expected = [{o, o + len(row) - 2, o + len(row) - 1} for o, row in zip(offsets, rows, strict=True)]
    assert edited_tokens(model, ids, attention_mask=mask) == expected
    numbers = (mask.cumsum(1) - 1).clamp(min=0)
    together = logits(model, ids, attention_mask=mask, position_ids=numbers)
    for i, (offset, row) in enumerate(zip(offsets, rows, strict=True)):
        alone = logits(model, row[None])[0]
        assert torch.allclose(together[i, offset : offset + len(row)], alone, atol=1e-5)


def test_labels_in_a_padded_batch_give_each_row_its_own_prompt():
    model = with_reft(layers=[0], positions="f1+l1")
    ids, mask = padded([torch.cat([PROMPT, ANSWER]), torch.cat([PROMPT[:3], ANSWER])], "left")
    labels = answer_labels(ids, [range(6, 9), range(6, 9)])
    assert edited_tokens(model, ids, attention_mask=mask, labels=labels) == [{0, 5}, {3, 5}]
    assert edited_tokens(model, ids, attention_mask=mask, prompt_lengths=[6, 3]) == [{0, 5}, {3, 5}]


@pytest.mark.parametrize("tied", [True, False])
def test_mistake_3_in_a_short_prompt_the_gradient_is_that_of_editing_each_token_once(tied):
    """f2+l3 on 4 tokens: 0 and 1 by the first weights, 2 and 3 by the last ones; reference in float64, by index."""
    model, ids = with_reft(layers=[-1], positions="f2+l3", tied=tied), PROMPT[None, :4]
    loss = model(input_ids=ids).logits.square().sum()
    loss.backward()
    layer, base = reft_layers(model)[0], model.get_base_model()
    with torch.no_grad(), model.disable_adapter():
        unedited = []
        handle = base.model.layers[-1].register_forward_hook(
            lambda _, args, output: unedited.append(output[0].double())
        )
        base(input_ids=ids)
        handle.remove()
    names = ["shared", "shared"] if tied else ["first", "last"]
    copies = {name: double_copy(getattr(layer, f"reft_{name}")["default"]) for name in names}
    pieces = []
    for name, span in zip(names, (slice(0, 2), slice(2, 4)), strict=True):
        own, h = copies[name], unedited[0][span]
        rows = orthonormal_rows(own["rotation"])
        pieces.append(h + (h @ own["weight"].mT + own["bias"] - h @ rows.mT) @ rows)
    base.double()
    reference = base.lm_head(base.model.norm(torch.cat(pieces)[None])).square().sum()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    for name, own in copies.items():
        for key, expected in own.items():
            gradient = getattr(layer, f"reft_{name}")["default"].get_parameter(key).grad.double()
            assert torch.allclose(gradient, expected.grad, rtol=1e-3, atol=1e-4 * expected.grad.abs().max().item())


def double_copy(unit) -> dict[str, torch.Tensor]:
    return {key: parameter.detach().clone().double().requires_grad_() for key, parameter in unit.named_parameters()}


def test_labels_from_the_first_token_on_are_refused_unless_every_token_is_edited():
    ids = token_ids(2, 6)
    with pytest.raises(ValueError, match="no prompt for a ReFT edit"):
        with_reft(positions="l1")(input_ids=ids, labels=ids)
    assert with_reft(positions="all")(input_ids=ids, labels=ids).loss > 0


def test_labels_of_whole_rows_tell_no_prompt_and_lengths_do():
    settings = {key: value for key, value in COMMON.items() if "token_id" not in key}
    model = LlamaForSequenceClassification(LlamaConfig(**settings, num_labels=3, pad_token_id=0))
    ids, labels = token_ids(2, 6), torch.tensor([0, 2])
    adapted = get_peft_model(model, ReftConfig(positions="l2", rank=2)).train()
    with pytest.raises(ValueError, match="attention_mask.sum"):
        adapted(input_ids=ids, labels=labels)
    adapted(input_ids=ids, labels=labels, prompt_lengths=[6, 6]).loss.backward()
    everywhere = get_peft_model(adapted.unload(), ReftConfig(positions="all", rank=2)).train()
    everywhere(input_ids=ids, labels=labels).loss.backward()


@pytest.mark.parametrize("lengths", [[3], [3, 3, 3], [[3, 3]]])
def test_prompt_lengths_that_do_not_fit_the_batch_are_refused_and_the_next_works(lengths):
    model, ids = with_reft(), token_ids(2, 6)
    before = logits(model, ids)
    with pytest.raises(ValueError, match="one length for each of 2 rows"):
        model(input_ids=ids, prompt_lengths=lengths)
    assert torch.equal(logits(model, ids), before)


def test_input_embeddings_are_edited_like_the_ids_they_stand_for():
    model, ids = with_reft(), token_ids(2, 6)
    embeddings = model.get_input_embeddings()(ids)
    with torch.no_grad():
        assert torch.equal(model(inputs_embeds=embeddings).logits, logits(model, ids))


def test_the_body_called_past_the_head_is_edited_too():
    model, ids = with_reft(positions="l2"), token_ids(2, 6)
    with torch.no_grad():
        body = model.get_base_model().model(input_ids=ids, prompt_lengths=[4, 5]).last_hidden_state
        whole = model(input_ids=ids, prompt_lengths=[4, 5], output_hidden_states=True).hidden_states[-1]
        other = model.get_base_model().model(input_ids=ids).last_hidden_state
    assert torch.equal(body, whole)
    assert not torch.allclose(body, other)


def test_a_block_called_on_its_own_says_that_the_model_is_to_be_called():
    model = with_reft()
    with pytest.raises(RuntimeError, match="call the model"):
        reft_layers(model)[0].tracker.edited_indices(
            reft_layers(model)[0].positions["default"], "shared", torch.device("cpu")
        )


@pytest.mark.parametrize("positions", ["f2+l3", "all"])
def test_a_prefix_in_the_cache_changes_nothing_with_labels_or_lengths(positions):
    model, ids = with_reft(positions=positions), token_ids(2, 12)
    labels = answer_labels(ids, [range(9, 12), range(8, 12)])
    whole = logits(model, ids, labels=labels)
    for kind in ({"labels": labels[:, 4:]}, {"prompt_lengths": [9, 8]}):
        with torch.no_grad():
            cache = model(input_ids=ids[:, :4], prompt_lengths=[9, 8], use_cache=True).past_key_values
        rest = logits(model, ids[:, 4:], past_key_values=cache, attention_mask=torch.ones_like(ids), **kind)
        assert torch.allclose(rest, whole[:, 4:], atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_second_call_on_a_filled_cache_keeps_the_first_calls_prompt(architecture):
    model, ids = with_reft(architecture, layers=[0], positions="f2+l2"), token_ids(1, 9)
    cache = model(input_ids=ids[:, :6], use_cache=True).past_key_values
    with counted_edits(model) as counts, torch.no_grad():
        model(input_ids=ids[:, 6:], past_key_values=cache)
    assert counts == []
    own = DynamicCache()
    model(input_ids=ids[:, :6], use_cache=False, past_key_values=own, prompt_lengths=[8])
    made = model(input_ids=ids[:, :6], use_cache=True, prompt_lengths=[8]).past_key_values
    _, in_tuple, *_ = model(input_ids=ids[:, :6], use_cache=True, prompt_lengths=[8], return_dict=False)
    for cache in (own, made, in_tuple):
        with counted_edits(model) as counts, torch.no_grad():
            model(input_ids=ids[:, 6:], past_key_values=cache)
        assert counts == [2]  # tokens 6 and 7, the last two of a prompt of 8


def test_a_cache_that_was_repeated_for_more_rows_asks_for_their_prompt_lengths():
    model, ids = with_reft(positions="f2+l2"), token_ids(2, 9)
    cache = model(input_ids=ids[:1, :6], use_cache=True).past_key_values
    cache.batch_repeat_interleave(2)
    with pytest.raises(ValueError, match="a call of 1 rows, and this one has 2: pass prompt_lengths"):
        model(input_ids=ids[:, 6:], past_key_values=cache)
    assert logits(model, ids[:, 6:], past_key_values=cache, prompt_lengths=[6, 6]).shape == (2, 3, 259)


@pytest.mark.parametrize("site", ["block", "attention", "mlp"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_two_passes_before_one_backward_each_recompute_their_own_tokens(site, use_reentrant):
    model, ids = with_reft(site=site, positions="f2+l3").train(), token_ids(2, 9)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        one = model(input_ids=ids, prompt_lengths=[5, 7]).logits.square().sum()
        two = model(input_ids=ids, prompt_lengths=[9, 8]).logits.square().sum()
        (one + two).backward()
        return [p.grad.clone() for p in reft_parameters(model).values()]

    plain = gradients()
    model.enable_input_require_grads()
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    for before, after in zip(plain, gradients(), strict=True):
        assert torch.allclose(before, after, rtol=1e-4, atol=1e-4 * before.abs().max())


def test_blocks_in_torchs_checkpoint_wrapper_have_the_plain_gradients():
    """As accelerate's FSDP plugin wraps them for activation checkpointing."""
    ids, gradients = token_ids(2, 9), []
    for wraps in (False, True):
        model = with_reft(positions="f2+l3").train()
        model.enable_input_require_grads()
        if wraps:
            kind = type(model.get_base_model().model.layers[0])
            apply_activation_checkpointing(model.get_base_model(), check_fn=lambda m, kind=kind: isinstance(m, kind))
        one = model(input_ids=ids, prompt_lengths=[5, 7]).logits.square().sum()
        two = model(input_ids=ids, prompt_lengths=[9, 8]).logits.square().sum()
        (one + two).backward()
        gradients.append([p.grad.clone() for p in reft_parameters(model).values()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.allclose(plain, recomputed, rtol=1e-4, atol=1e-4 * plain.abs().max())


def test_the_tracker_of_a_model_that_stands_in_another_is_found():
    outer, inner = tiny_model(), with_reft(positions="l1")
    assert tracker_of(outer) is None
    outer.inner = inner
    assert tracker_of(outer) is tracker_of(inner) is not None


def test_a_block_called_on_its_own_after_a_pass_does_not_edit_that_passes_tokens():
    model, ids = with_reft(positions="l1"), token_ids(1, 6)
    logits(model, ids)
    block, call = model.get_base_model().model.layers[0], {"position_embeddings": (torch.ones(1, 6, 8),) * 2}
    with pytest.raises(RuntimeError, match="call the model"):
        block(torch.zeros(1, 6, 32), **call)
    with model.disable_adapter():  # then there is no edit to place
        assert block(torch.zeros(1, 6, 32), **call).shape == (1, 6, 32)


def test_a_call_after_one_that_was_interrupted_edits_its_own_tokens():
    """KeyboardInterrupt passes torch's hooks by."""
    model, ids = with_reft(layers=[0], positions="l1"), token_ids(2, 8)
    expected = logits(model, ids)

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = model.get_base_model().model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        logits(model, ids[:, :5])
    handle.remove()
    assert torch.equal(logits(model, ids), expected)
