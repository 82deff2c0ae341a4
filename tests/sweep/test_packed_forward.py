"""Copies of many adapters in one pass: each has the loss and gradients of a plain pass of its own."""

import pytest
import torch

import tiny
from heft.adapters.attach import activate, adapter_parameters, attach, finish, train_only
from heft.data.encode import Encoder, training_batch
from heft.recipe.recipe import LoraStage, ReftStage
from heft.reft.layer import ReftLayer
from heft.sweep.forward import PackedForward, can_stand_side_by_side
from heft.sweep.packing import WorkItem, side_by_side
from heft.tasks.example import generation_example
from heft.training.loss import answer_loss
from heft.training.reuse.prefix import PrefixReuse
from heft.training.reuse.stores import MemoryStore
from tolerance import assert_gradients, rounded

TEXTS = [("A short one:", " yes"), ("Something quite a bit longer than that:", " no it is not"), ("Q?", " 1"),
         ("One that is about as long as that:", " x")]  # fmt: skip
ROWS = Encoder(tiny.byte_tokenizer(), 256)([generation_example("t", p, a, a) for p, a in TEXTS])
POSITIONS = ["l1", "l2", "l2", "f1+l1", "all"]
SUFFIXES = [1, 2, 2, None, None]
NAMES = [f"sweep-{n}" for n in range(len(POSITIONS))]


def shake(model, names):
    with torch.no_grad():
        for parameter in adapter_parameters(model, names).values():
            parameter.add_(0.1 * torch.randn_like(parameter))


def model_with_all(architecture, site="block", **options):
    """A frozen LoRA, a frozen ReFT on both ends, and five adapters of different ranks and positions."""
    torch.manual_seed(0)
    model = tiny.tiny_model(architecture, **options)
    earlier = [LoraStage(method="lora", rank=2, steps=1), ReftStage(method="reft", rank=2, positions="f1+l2", steps=1)]
    for name, stage in zip(("coarse", "earlier"), earlier, strict=True):
        attached = attach(model, name, stage)
        shake(model, attached.names)
        finish(model, attached)
    for n, (name, positions) in enumerate(zip(NAMES, POSITIONS, strict=True)):
        attach(model, name, ReftStage(method="reft", rank=1 + n, positions=positions, site=site, steps=1))
        shake(model, [name])
    return model


def own(model, names):
    tracker = next(m for m in model.modules() if isinstance(m, ReftLayer)).tracker
    tracker.adapter_index = {name: n for n, name in enumerate(names)}
    activate(model, list(model.peft_config))
    train_only(model, names)


def passes_of(model, in_place=False):
    own(model, NAMES)
    if not can_stand_side_by_side(model):
        return PackedForward(model, ROWS, 0)
    reuse = PrefixReuse(model, ROWS, 1, 0, MemoryStore(), in_place=in_place)
    return PackedForward(model, ROWS, 0, reuse=reuse, suffixes=SUFFIXES)


def plain(model, number, row):
    """Loss and gradients of one adapter alone on one row, by the plain path."""
    next(m for m in model.modules() if isinstance(m, ReftLayer)).tracker.adapter_index = {}
    activate(model, ["coarse", "earlier", NAMES[number]])
    train_only(model, [NAMES[number]])
    parameters = list(adapter_parameters(model, [NAMES[number]]).values())
    loss = answer_loss(model, training_batch([ROWS[row]], 0))
    return loss.item(), torch.autograd.grad(loss, parameters)


@pytest.mark.parametrize("site", ["block", "mlp"])
@pytest.mark.parametrize("in_place", [False, True], ids=["copied", "in_place"])
@pytest.mark.parametrize("architecture", tiny.of_each_kind())
def test_every_copy_has_the_loss_and_the_gradients_it_has_alone(architecture, in_place, site):
    model = model_with_all(architecture, site)
    passes = passes_of(model, in_place)
    assert passes.suffixes, "these architectures can stand side by side"
    work = [(n, row) for n in range(len(NAMES)) for row in range(len(ROWS)) if (n + row) % 4 or n < 3]
    losses = passes.losses([passes.item(n, row, ROWS[row].answer) for n, row in work])
    parameters = {n: list(adapter_parameters(model, [NAMES[n]]).values()) for n in range(len(NAMES))}
    mine = {n: torch.autograd.grad(losses.sum(), parameters[n], retain_graph=True) for n in parameters}
    values = losses.tolist()
    expected = {n: [torch.zeros_like(p) for p in parameters[n]] for n in parameters}
    for (n, row), value in zip(work, values, strict=True):
        loss, gradients = plain(model, n, row)
        assert value == rounded(loss)
        expected[n] = [a + b for a, b in zip(expected[n], gradients, strict=True)]
    for n in parameters:
        for got, wanted in zip(mine[n], expected[n], strict=True):
            assert_gradients({n: got}, {n: wanted})


@pytest.mark.parametrize("in_place", [False, True], ids=["copied", "in_place"])
def test_eager_attention_and_a_window_in_every_layer_give_the_plain_loss(in_place):
    model = model_with_all("mistral", sliding_window=6)
    model.set_attn_implementation("eager")
    passes = passes_of(model, in_place)
    work = [(n, row) for n in (0, 1, 2) for row in (0, 1, 3)]
    values = passes.losses([passes.item(n, row, ROWS[row].answer) for n, row in work]).tolist()
    for (n, row), value in zip(work, values, strict=True):
        assert value == rounded(plain(model, n, row)[0])


def test_copies_of_a_row_stand_in_one_sequence_and_the_prefix_is_there_once():
    copies = [WorkItem(owner, row, len(ROWS[row].prompt) - 2, ROWS[row].answer) for owner in range(3) for row in (1, 3)]
    grid = side_by_side(copies, ROWS, 0)
    assert sorted(grid.rows) == [1, 3]
    width = max(len(ROWS[row].answer) for row in (1, 3)) + 1
    assert grid.ids.shape == (2, 3 * width)


def test_a_row_that_fewer_adapters_share_does_not_widen_all_sequences():
    copies = [WorkItem(owner, row, len(ROWS[row].prompt) - 2, (5,)) for row in (1, 3) for owner in range(4)]
    copies += [WorkItem(owner, 0, len(ROWS[0].prompt) - 2, (5,)) for owner in range(8)]
    grid = side_by_side(copies, ROWS, 0)
    assert grid.ids.shape == (4, 4 * 2)
    assert sorted(grid.rows) == [0, 0, 1, 3]


def test_models_with_dropout_of_their_own_run_whole_rows():
    assert not can_stand_side_by_side(tiny.tiny_model("gpt2", attn_pdrop=0.1))
