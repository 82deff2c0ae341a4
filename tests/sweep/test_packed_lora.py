"""LoRA of many configurations in one pass: each has the loss and the gradients of PEFT's layers on its rows alone."""

from dataclasses import replace

import pytest
import torch
from peft.tuners.lora import LoraLayer

import tiny
from counting import calls_of
from heft.adapters.attach import activate, adapter_parameters, attach, finish, train_only
from heft.data.encode import Encoder, training_batch
from heft.recipe.recipe import LoraStage, ReftStage
from heft.reft.tracker import ForwardTracker
from heft.sweep import packed_lora as module
from heft.sweep.forward import PackedForward, can_stand_side_by_side
from heft.sweep.packed_lora import PackedLinear, keep_apart, packed_lora
from heft.tasks.example import generation_example
from heft.training.loss import answer_loss
from heft.training.reuse.prefix import PrefixReuse
from heft.training.reuse.stores import MemoryStore
from tolerance import assert_gradients, rounded

TEXTS = [("A short one:", " yes"), ("Something quite a bit longer than that:", " no it is not"), ("Q?", " 1")]
ROWS = Encoder(tiny.byte_tokenizer(), 256)([generation_example("t", p, a, a) for p, a in TEXTS])
POSITIONS = ["l1+", "l2+", "l2+", "all"]
SUFFIXES = [1, 2, 2, None]
NAMES = [f"sweep-{n}" for n in range(len(POSITIONS))]


def shaken(model, names):
    with torch.no_grad():
        for parameter in adapter_parameters(model, names).values():
            parameter.add_(0.1 * torch.randn_like(parameter))


def model_with_all(architecture):
    """Frozen adapters of both methods, and four LoRA adapters of unlike ranks and positions, one on some layers."""
    torch.manual_seed(0)
    model = tiny.tiny_model(architecture)
    earlier = [
        LoraStage(method="lora", rank=2, alpha=3, steps=1),
        ReftStage(method="reft", rank=2, positions="f1+l2", steps=1),
    ]
    earlier.append(LoraStage(method="lora", rank=2, alpha=1, positions="l1+", steps=1))
    for number, stage in enumerate(earlier):
        attached = attach(model, f"earlier{number}", stage)
        shaken(model, attached.names)
        finish(model, attached)
    for n, (name, positions) in enumerate(zip(NAMES, POSITIONS, strict=True)):
        layers = [0] if n == 1 else "all"
        stage = LoraStage(method="lora", rank=1 + n, alpha=2 + n, positions=positions, layers=layers, steps=1)
        attach(model, name, stage)
        shaken(model, [name])
        keep_apart(model, ForwardTracker.on(model), name)
    return model


def losses_and_gradients(model, enabled):
    tracker = ForwardTracker.on(model)
    tracker.adapter_index = {name: n for n, name in enumerate(NAMES)}
    activate(model, list(model.peft_config))
    train_only(model, NAMES)
    passes = PackedForward(model, ROWS, 0)
    if can_stand_side_by_side(model):
        passes = replace(passes, reuse=PrefixReuse(model, ROWS, 1, 0, MemoryStore()), suffixes=SUFFIXES)
    work = [(n, row) for n in range(len(NAMES)) for row in range(len(ROWS)) if (n + row) % 3]
    with packed_lora(model, tracker, enabled) as layers:
        losses = passes.losses([passes.item(n, row, ROWS[row].answer) for n, row in work])
        named = adapter_parameters(model, NAMES)
        gradients = dict(zip(named, torch.autograd.grad(losses.sum(), list(named.values())), strict=True))
    return layers, dict(zip(work, losses.tolist(), strict=True)), gradients


def alone(model, work):
    """Losses, and the sum of gradients, of each adapter alone on one row after the other, by PEFT's layers."""
    ForwardTracker.on(model).adapter_index = {}
    losses, gradients = {}, {}
    for n, row in work:
        activate(model, [name for name in model.peft_config if name not in NAMES or name == NAMES[n]])
        train_only(model, [NAMES[n]])
        loss = answer_loss(model, training_batch([ROWS[row]], 0))
        named = adapter_parameters(model, [NAMES[n]])
        losses[n, row] = loss.item()
        for key, found in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True):
            gradients[key] = gradients.get(key, 0) + found
    return losses, gradients


@pytest.fixture
def calls(monkeypatch):
    """How often the packed function has run, as the length of a list."""
    return calls_of(monkeypatch, module._PackedLora, "apply")


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_every_configuration_has_the_loss_and_the_gradients_it_has_alone(architecture, calls):
    model = model_with_all(architecture)
    layers, losses, gradients = losses_and_gradients(model, enabled=True)
    assert bool(layers) == (architecture != "gpt2"), "GPT-2's modules are Conv1D, which PEFT's own layers compute"
    assert bool(calls) == bool(layers)
    expected, wanted = alone(model, losses)
    assert losses == {key: rounded(value) for key, value in expected.items()}
    assert_gradients(gradients, wanted)
    layers, losses, gradients = losses_and_gradients(model, enabled=False)
    assert not layers
    assert losses == {key: rounded(value) for key, value in expected.items()}
    assert_gradients(gradients, wanted)


def test_layers_are_pefts_own_again_afterwards():
    model = model_with_all("llama")
    losses_and_gradients(model, enabled=True)
    assert not any(isinstance(module, PackedLinear) or hasattr(module, "grouping") for module in model.modules())


def test_what_it_is_not_made_for_goes_pefts_way(calls):
    """Hooks on what a module is made of, which double its output."""
    model = model_with_all("llama")
    places = (
        lambda layer: layer.base_layer,
        lambda layer: layer.lora_A["earlier0"],
        lambda layer: layer.lora_A["sweep-2"],
    )
    for place in places:
        parts = [place(each) for each in model.modules() if isinstance(each, LoraLayer)]
        hooks = [part.register_forward_hook(lambda _, args, output: 2 * output) for part in parts]
        found, expected = (losses_and_gradients(model, enabled) for enabled in (True, False))
        for hook in hooks:
            hook.remove()
        assert found[1] == {key: rounded(value) for key, value in expected[1].items()}
        assert_gradients(found[2], expected[2])
    assert not calls
