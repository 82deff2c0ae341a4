"""Models that keep several hidden states a token, mix tokens or return lists: edited in the right place or refused."""

import copy

import pytest
import torch

from heft.reft import require_editable
from heft.reft.sites import block_names
from heft.reft.streams import Streams
from reft.odd_models import odd_model
from reft.reference import ReferenceEdit
from reft.support import logits, reft_layers, token_ids, with_reft
from tiny import tiny_model

KINDS = {
    "gemma4": "plain",
    "gemma3n": "leading",
    "deepseek_v4": "inner",
    "hy_v4": "inner",
    "qwen4_exp": "flat",
    "openai-gpt": "plain",
    "ctrl": "plain",
}
REFUSED = {"prophetnet": r"\(2, 21, 32\)", "cpmant": r"\(2, 39, 32\)"}


def by_hand(base, layers, kind: str, columns: list[list[int]]):
    """The hook of each block that edits these columns of each row, in the way that its family keeps hidden states."""

    def hook_of(edit: ReferenceEdit):
        def hook(module, args, output):
            hidden = (output[0] if isinstance(output, tuple | list) else output).clone()
            for row, wanted in enumerate(columns):
                for column in wanted:
                    if kind == "leading":
                        hidden[1, row, column] = edit(hidden[1, row, column][None])[0]
                    elif kind == "flat":
                        hidden[row, column] = edit(hidden[row, column].view(-1, 32)).flatten()
                    elif kind == "inner":
                        hidden[row, column] = edit(hidden[row, column])
                    else:
                        hidden[row, column] = edit(hidden[row, column][None])[0]
            return type(output)([hidden, *output[1:]]) if isinstance(output, tuple | list) else hidden

        return hook

    units = [layer.reft_shared["default"] for layer in layers]
    edits = [ReferenceEdit(unit.rotation, unit.weight, unit.bias) for unit in units]
    return [
        base.get_submodule(name).register_forward_hook(hook_of(edit))
        for name, edit in zip(block_names(base), edits, strict=True)
    ]


@pytest.mark.parametrize("name", KINDS)
def test_each_blocks_edit_is_that_of_a_computation_by_hand(name):
    ids, lengths = token_ids(2, 9), [6, 5]
    model = with_reft(odd_model(name), positions="f1+l2")
    found = logits(model, ids, prompt_lengths=lengths)
    base = odd_model(name)
    plain = logits(base, ids)
    handles = by_hand(base, reft_layers(model), KINDS[name], [[0, 4, 5], [0, 3, 4]])
    expected = logits(base, ids)
    for handle in handles:
        handle.remove()
    scale = expected.abs().max().item()
    assert torch.allclose(found, expected, atol=2e-5 * scale)
    assert not torch.allclose(found, plain, atol=1e-2 * scale)


@pytest.mark.parametrize("name", [*KINDS])
def test_cached_decoding_edits_what_uncached_decoding_edits(name):
    model, ids = with_reft(odd_model(name), positions="f1+l2"), token_ids(2, 7)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "output_logits": True}
    options |= {"return_dict_in_generate": True, "attention_mask": torch.ones_like(ids)}
    steps = [torch.stack(model.generate(ids, use_cache=cached, **options).logits) for cached in (True, False)]
    assert torch.allclose(steps[0], steps[1], atol=1e-4 * steps[1].abs().max().item())


@pytest.mark.parametrize("name", [*KINDS])
def test_every_edit_gets_a_gradient(name):
    model, ids = with_reft(odd_model(name), positions="f1+l2").train(), token_ids(2, 9)
    model(input_ids=ids, prompt_lengths=[6, 5]).logits.square().mean().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for layer in reft_layers(model) for p in layer.parameters()
    )


@pytest.mark.parametrize("keep", [1, 3, torch.tensor([2, 6])])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("positions", ["f1", "l2"])
def test_gemma_4_with_shared_keys_edits_whole_rows_where_few_logits_are_kept(keep, rows, positions):
    model, ids = with_reft(odd_model("gemma4"), positions=positions), token_ids(rows, 7)
    whole = logits(model, ids, use_cache=False)
    wanted = whole[:, -keep:] if isinstance(keep, int) else whole[:, keep]
    assert torch.allclose(logits(model, ids, use_cache=False, logits_to_keep=keep), wanted, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_adds_tokens_is_refused_with_the_shape_and_what_works(name):
    model = with_reft(odd_model(name), trained=False, positions="l1")
    with pytest.raises(ValueError, match=r"hidden states of shape .* cannot be edited.*LoRA on this model"):
        logits(model, token_ids(2, 7))
    with pytest.raises(ValueError, match=REFUSED[name]):
        require_editable(odd_model(name))


def test_a_model_that_puts_tokens_first_is_refused_when_the_adapter_is_attached():
    model = odd_model("xlnet")
    for call in (lambda: with_reft(model), lambda: require_editable(model)):
        with pytest.raises(ValueError, match=r"xlnet model return \(tokens, rows, hidden size\)"):
            call()
    assert not reft_layers(model)


@pytest.mark.parametrize("site", ["block", "mlp", "attention"])
def test_a_model_that_can_be_edited_is_said_to_be_on_any_device_and_left_as_it_was(site):
    model, ids = tiny_model(), token_ids(2, 7)
    before = logits(model, ids)
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    assert require_editable(model, site=site)
    assert require_editable(copy.deepcopy(model).to("meta"), site=site)
    assert require_editable(with_reft(copy.deepcopy(model)).get_base_model(), site=site)
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks
    assert torch.equal(logits(model, ids), before)


def test_a_model_that_cannot_be_run_is_not_said_to_be_editable():
    model = tiny_model()
    model.model.forward = None
    assert not require_editable(model)


def test_an_output_that_is_no_tensor_is_refused_in_words():
    model = with_reft(layers=[0], positions="l1")
    model.get_base_model().model.layers[0].register_forward_hook(lambda *_: {"hidden": 1}, prepend=True)
    with pytest.raises(ValueError, match="returns a dict, and ReFT edits a tensor"):
        logits(model, token_ids(1, 5))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_flattened_hidden_states_are_edited_like_those_by_row(architecture):
    """As some mixtures of experts put them out: (B·T, d)."""
    streams = Streams(width=32)
    rows = torch.tensor([1, 9])
    assert streams.places(torch.Size([14, 32]), 2, 7).of(rows).tolist() == [1, 9]
    model, ids = with_reft(architecture, layers=[1], site="mlp", positions="l1"), token_ids(2, 7)
    expected = logits(model, ids)
    block = model.get_base_model().get_submodule(block_names(model.get_base_model())[1])
    block.mlp.register_forward_hook(lambda _, args, output: output.reshape(-1, 32), prepend=True)
    block.mlp.register_forward_hook(lambda _, args, output: output.view(2, 7, 32))
    assert torch.equal(logits(model, ids), expected)


@pytest.mark.parametrize(
    ("streams", "shape", "places"),
    [
        (Streams(4), (2, 3, 4), [1, 5]),
        (Streams(4, active=1), (3, 2, 3, 4), [7, 11]),
        (Streams(4, active=2), (3, 2, 3, 4), [13, 17]),
        (Streams(4, inner=2), (2, 3, 2, 4), [2, 3, 10, 11]),
        (Streams(4, inner=2), (2, 3, 8), [2, 3, 10, 11]),
    ],
)
def test_places_of_tokens_1_and_5_of_two_rows_of_three_by_hand(streams, shape, places):
    found = streams.places(torch.Size(shape), 2, 3)
    assert found.of(torch.tensor([1, 5])).tolist() == places
    flags = torch.zeros(6, dtype=torch.bool)
    flags[[1, 5]] = True
    assert found.spread(flags).nonzero().flatten().tolist() == places
    assert len(found.spread(flags)) == torch.Size(shape).numel() // 4


ODD_SHAPES = [(3, 2, 4), (2, 4, 4), (2, 3, 5), (2, 2, 3, 4), (5, 4), (2, 3, 8)]


@pytest.mark.parametrize(
    ("streams", "shape"),
    [
        *((Streams(4), shape) for shape in ODD_SHAPES),
        (Streams(4, active=2), (2, 2, 3, 4)),
        (Streams(4, inner=2), (2, 3, 3, 4)),
        (Streams(4, inner=2), (2, 3, 12)),
    ],
)
def test_a_shape_that_holds_no_row_for_each_token_is_refused_with_both_shapes(streams, shape):
    with pytest.raises(ValueError, match=r"2 rows of 3 tokens has them as \(2, 3, 4\)"):
        streams.places(torch.Size(shape), 2, 3)


def test_a_model_that_says_nothing_of_streams_has_one_state_a_token():
    assert Streams.of(tiny_model().config) == Streams(32, active=None, inner=1)
