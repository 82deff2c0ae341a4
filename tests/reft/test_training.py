"""Training: the same losses as an independent LoReFT, and gradients that checkpointing and precision leave alone."""

import pytest
import torch
from peft import PeftModel, prepare_model_for_kbit_training

from reft.reference import ReferenceEdit, ReferenceLoreft
from reft.support import logits, perturb, reft_layers, reft_parameters, token_ids, with_reft
from tiny import tiny_model
from tolerance import trained_losses

SITES = ["block", "attention", "mlp"]


def padded_batch():
    """Two rows of 5+3 and 7+3 tokens, the first padded on the left; and the columns of f2 and l2 in each prompt."""
    ids, mask = token_ids(2, 10), torch.ones(2, 10, dtype=torch.long)
    ids[0, :2], mask[0, :2] = 0, 0
    labels = ids.clone()
    labels[:, :7] = -100
    return ids, mask, labels, [([2, 3], [5, 6]), ([0, 1], [5, 6])]


def reference_of(model) -> ReferenceLoreft:
    """An independent LoReFT on an untouched base, with the same start as the adapter of `model`."""
    edits = []
    for layer in reft_layers(model):
        units = [layer.reft_shared] * 2 if "default" in layer.reft_shared else [layer.reft_first, layer.reft_last]
        made = {id(u): ReferenceEdit(u["default"].rotation, u["default"].weight, u["default"].bias) for u in units}
        edits.append(tuple(made[id(u)] for u in units))
    return ReferenceLoreft(tiny_model(), edits)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("trained", [False, True], ids=["from_the_identity", "from_elsewhere"])
def test_twenty_losses_equal_those_of_an_independent_loreft(tied, trained):
    ids, mask, labels, columns = padded_batch()
    model = with_reft(trained=trained, positions="f2+l2", tied=tied).train()
    reference = reference_of(model)
    assert sum(p.numel() for p in reference.parameters()) == sum(p.numel() for p in reft_parameters(model).values())
    ours = torch.optim.AdamW(list(reft_parameters(model).values()), lr=3e-3, weight_decay=0.0)
    theirs = torch.optim.AdamW(reference.parameters(), lr=3e-3, weight_decay=0.0)
    traces: tuple[list, list] = ([], [])
    for _ in range(20):
        losses = (
            model(input_ids=ids, attention_mask=mask, labels=labels).loss,
            reference.loss(ids, mask, labels, columns),
        )
        for loss, optimizer, trace in zip(losses, (ours, theirs), traces, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            trace.append(loss.item())
    assert traces[0] == trained_losses(traces[1], 3e-3, 20)
    assert traces[0][-1] < traces[0][0] - 0.05  # it did learn


def gradients(model) -> dict[str, torch.Tensor]:
    model.zero_grad()
    ids, mask, labels, _ = padded_batch()
    model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    return {name: p.grad.clone() for name, p in reft_parameters(model).items()}


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_gradient_checkpointing_gives_the_same_gradients(site, use_reentrant, architecture):
    model = with_reft(architecture, site=site, positions="f2+l2", tied=False).train()
    plain = gradients(model)
    model.enable_input_require_grads()
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    recomputed = gradients(model)
    silent = {name for name, gradient in plain.items() if not gradient.any()}
    assert all(".2." in name and "reft_first" in name for name in silent)  # nothing reads the last block's first tokens
    for name, gradient in plain.items():
        assert torch.allclose(recomputed[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max()), name


def test_only_the_adapter_trains_and_all_of_it_gets_a_gradient():
    model = with_reft(positions="f2+l2", tied=False).train()
    assert gradients(model)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad == (".reft_" in name), name


def train_one_step(model) -> None:
    ids, mask, labels, _ = padded_batch()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    optimizer.step()
    model.eval()


@pytest.mark.parametrize("site", SITES)
def test_on_bfloat16_an_edit_starts_as_identity_trains_in_float32_reloads_exactly(site, tmp_path):
    ids = token_ids(2, 9)
    model = with_reft(tiny_model().bfloat16(), trained=False, site=site)
    assert torch.equal(logits(model, ids), logits(tiny_model().bfloat16(), ids))
    perturb(model, scale=0.1)
    before = {name: p.detach().clone() for name, p in reft_parameters(model).items()}
    train_one_step(model)
    assert {p.dtype for p in reft_parameters(model).values()} == {torch.float32}
    assert all(not torch.equal(p, before[name]) for name, p in reft_parameters(model).items())
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model().bfloat16(), tmp_path)
    for name, parameter in reft_parameters(loaded).items():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, reft_parameters(model)[name])
    assert logits(loaded, ids).dtype == torch.bfloat16
    assert torch.equal(logits(loaded, ids), logits(model, ids))


@pytest.mark.parametrize("site", SITES)
def test_under_autocast_a_fresh_edit_is_the_identity_and_a_step_changes_all_weights(site):
    ids, model = token_ids(2, 9), with_reft(trained=False, site=site, positions="f2+l2")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(logits(model, ids), logits(tiny_model(), ids))
        perturb(model, scale=0.1)
        before = {name: p.detach().clone() for name, p in reft_parameters(model).items()}
        train_one_step(model)
    assert all(not torch.equal(p, before[name]) for name, p in reft_parameters(model).items())
    assert {p.dtype for p in reft_parameters(model).values()} == {torch.float32}


def test_autocast_gradients_are_close_to_float32_ones():
    model = with_reft(positions="f2+l2").train()
    plain = gradients(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = gradients(model)
    for name, gradient in plain.items():
        cosine = torch.nn.functional.cosine_similarity(low[name].flatten(), gradient.flatten(), dim=0)
        assert cosine > 0.98, name


def test_a_model_prepared_for_quantised_training_still_trains_the_adapter():
    model = with_reft(prepare_model_for_kbit_training(tiny_model()), positions="f2+l2").train()
    assert all(g.abs().sum() > 0 for g in gradients(model).values())


def test_weight_decay_of_10_keeps_the_loss_finite_and_the_edit_alive():
    """Mistake 1 of others, on a model: torch's parametrisation loses R and with it the edit."""
    ids, mask, labels, _ = padded_batch()
    model = with_reft(positions="f2+l2").train()
    optimizer = torch.optim.AdamW(list(reft_parameters(model).values()), lr=1e-2, weight_decay=10.0)
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    with torch.no_grad(), model.disable_adapter():
        base_loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    assert loss < base_loss - 0.1
