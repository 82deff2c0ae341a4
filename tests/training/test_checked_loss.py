"""A fast path is tried before it is taken: where it raises or differs, the plain path is, and that is said."""

from dataclasses import replace

import pytest
import torch
from test_prefix import REFT, ROWS, TEXTS, staged

import heft
import tiny
from heft.adapters import directory as adapter_dir
from heft.adapters.attach import attach
from heft.data.encode import training_batch
from heft.errors import HeftError
from heft.models import prefix_attention
from heft.models.verdicts import Verdicts, remembered
from heft.recipe.files import load_recipe
from heft.recipe.recipe import LoraStage, ReftStage
from heft.runtime.reporter import Reporter
from heft.training.checked_loss import longest_of, of_unlike_length, require_an_effect, shaken, why_not_fast
from heft.training.fused_lora import FusedLinear
from heft.training.loss import answer_loss, plain_loss
from heft.training.reuse import lower_layers, prefix
from heft.training.reuse.decide import loss_for, may_be_fused


def fast_and_plain(model, tmp_path, **settings):
    stage = ReftStage(**{**REFT, "positions": "l2", **settings})
    heard = []
    reporter = Reporter()
    reporter.note = heard.append
    _, reuses = loss_for(model, stage, ROWS, 0, 3, tmp_path, reporter)
    return reuses, heard


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_fast_path_that_equals_the_plain_one_is_taken(architecture, tmp_path):
    reuses, heard = fast_and_plain(staged(architecture), tmp_path)
    assert reuses
    assert heard[0].startswith("prefixes reused")


@pytest.mark.parametrize("where", ["prefixes", "layers"])
def test_a_fast_path_that_differs_is_not_taken_and_this_is_said(where, tmp_path, monkeypatch):
    settings = {} if where == "prefixes" else {"positions": "f1+l1", "layers": [1, 2]}
    module, name = {
        "prefixes": (prefix, "answer_loss_on_prefixes"),
        "layers": (lower_layers, "answer_loss_on_lower_layers"),
    }[where]
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: right(*a, **k) * 1.001)
    reuses, heard = fast_and_plain(staged(**({"positions": "l2"} | settings)), tmp_path, **settings)
    assert not reuses
    (note,) = heard
    assert note.startswith("reuse is off, the plain path is taken: it differs from the plain path by ")


def test_a_fast_path_that_raises_is_not_taken_and_its_error_is_said(tmp_path, monkeypatch):
    def broken(*arguments, **keywords):
        raise IndexError("list index out of range")

    monkeypatch.setattr(prefix, "answer_loss_on_prefixes", broken)
    reuses, heard = fast_and_plain(staged(), tmp_path)
    assert not reuses
    assert heard == ["reuse is off, the plain path is taken: IndexError: list index out of range"]


def test_edits_in_the_wrong_place_show_although_a_new_edit_is_the_identity(tmp_path, monkeypatch):
    model = tiny.tiny_model()
    attach(model, "fine", ReftStage(**REFT, positions="l2"))
    right = prefix.answer_loss_on_prefixes

    def shifted(model, batch, reuse):
        return right(model, batch | {"prompt_lengths": batch["prompt_lengths"] - 1}, reuse)

    monkeypatch.setattr(prefix, "answer_loss_on_prefixes", shifted)
    reuses, heard = fast_and_plain(model, tmp_path)
    assert not reuses
    assert "differs" in heard[0]


def test_trying_leaves_weights_and_random_numbers_as_they_were(tmp_path):
    model = staged()
    before = {name: p.clone() for name, p in model.named_parameters()}
    torch.manual_seed(5)
    fast_and_plain(model, tmp_path)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_lack_of_memory_says_nothing_about_a_fast_path():
    def out_of_memory(model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = staged()
    assert why_not_fast(model, out_of_memory, plain_loss(), ROWS, 0, "fast") is None


@pytest.mark.parametrize("lacks", ["memory", "numbers"])
def test_a_plain_loss_that_gives_nothing_says_nothing_about_a_fast_one_and_is_asked_again(lacks):
    def plain(model, batch):
        if lacks == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer_loss(model, batch) * torch.nan

    verdicts = Verdicts()
    with remembered(verdicts):
        assert why_not_fast(staged(), answer_loss, plain, ROWS, 0, "fast") is None
    assert not verdicts.found


def test_the_shortest_and_the_longest_row_are_tried():
    assert of_unlike_length(ROWS) == [2, 1]
    assert of_unlike_length(ROWS[:1]) == [0]
    prompt, answer = TEXTS[1]
    assert longest_of(ROWS) == len(prompt) + len(answer) + 1  # EOS


def test_shaken_weights_are_off_by_a_tenth_over_the_root_of_their_columns_and_in_evaluation_mode():
    layer = torch.nn.Linear(64, 300, bias=False)
    before, inside = layer.weight.detach().clone(), []
    for _ in range(2):
        with shaken(layer, [layer.weight]):
            inside.append(layer.weight.detach().clone())
            assert not layer.training
        assert layer.training
        assert torch.equal(layer.weight, before)
    assert torch.equal(*inside)
    assert (inside[0] - before).std().item() == pytest.approx(0.1 / 8, rel=0.03)


def test_a_stage_whose_weights_reach_no_answer_is_refused():
    model = tiny.tiny_model()
    attach(model, "fine", ReftStage(**REFT, positions="l2"))
    require_an_effect(model, "fine", ROWS, 0)
    for layer in model.model.layers:  # a model that goes on without what was edited
        layer.register_forward_hook(lambda module, args, output: args[0].detach())
    with pytest.raises(HeftError, match="stage fine trains nothing that the answers depend on"):
        require_an_effect(model, "fine", ROWS, 0)


def test_edits_of_tokens_that_nothing_after_them_reads_are_refused():
    """The last layer's output at a prompt's first token: its gradient is 0, not absent."""
    model = tiny.tiny_model()
    last = model.config.num_hidden_layers - 1
    attach(model, "fine", ReftStage(**REFT | {"layers": [last]}, positions="f1"))
    with pytest.raises(HeftError, match="stage fine trains nothing that the answers depend on"):
        require_an_effect(model, "fine", ROWS, 0)


def test_a_model_that_is_certain_of_its_answers_is_not_refused():
    """Logits so far apart that the gradient of −ln p is 0 in float32."""
    model, sure = tiny.tiny_model(), 7
    attach(model, "fine", ReftStage(**REFT, positions="l2"))
    apart = 1000 * torch.eye(model.config.vocab_size)[sure]
    model.lm_head.register_forward_hook(lambda module, args, logits: logits + apart)
    rows = [replace(row, answer=(sure,)) for row in ROWS]
    answer_loss(model, training_batch(rows, 0)).backward()
    assert not any(p.grad.any() for p in model.parameters() if p.requires_grad)
    require_an_effect(model, "fine", rows, 0)


def test_a_weight_update_is_tried_too():
    model = tiny.tiny_model()
    attach(model, "coarse", LoraStage(method="lora", rank=2, steps=1))
    require_an_effect(model, "coarse", ROWS, 0)


def test_a_run_whose_adapter_cannot_be_read_back_does_not_end_well(recipe_file, tmp_path, monkeypatch):
    save = adapter_dir.save

    def spoil(directory, *rest):
        save(directory, *rest)
        path = directory / "heft.json"
        path.write_text(path.read_text().replace('"name": "coarse"', '"name": "other"'))

    monkeypatch.setattr("heft.adapters.directory.save", spoil)
    recipe = load_recipe(recipe_file("{coarse: {method: lora, rank: 2, steps: 1}}"), output=str(tmp_path / "run"))
    with pytest.raises(HeftError):
        heft.train(recipe)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_what_rounding_does_in_bfloat16_turns_no_fast_path_off(architecture, dtype, tmp_path):
    model = tiny.tiny_model(architecture).to(dtype)
    attach(model, "coarse", LoraStage(method="lora", rank=4, steps=1))
    heard = []
    reporter = Reporter()
    reporter.note = heard.append
    linear = architecture != "gpt2"  # whose layers are Conv1D, which PEFT computes
    assert may_be_fused(model, ROWS, 0, reporter) == linear
    assert heard == []
    model = tiny.tiny_model(architecture).to(dtype)
    attach(model, "fine", ReftStage(**REFT, positions="l2"))
    reuses, _ = fast_and_plain(model, tmp_path)
    assert reuses


def test_a_fused_layer_that_computes_something_else_is_not_taken_and_this_is_said(monkeypatch):
    model = tiny.tiny_model()
    attach(model, "coarse", LoraStage(method="lora", rank=2, steps=1))
    right = FusedLinear.forward
    monkeypatch.setattr(FusedLinear, "forward", lambda self, x: right(self, x) * 1.01)
    heard = []
    reporter = Reporter()
    reporter.note = heard.append
    assert not may_be_fused(model, ROWS, 0, reporter)
    assert heard[0].startswith("fused is off, PEFT's own layers compute: it differs")


def test_a_fast_path_with_the_right_loss_and_a_wrong_gradient_is_not_taken(tmp_path, monkeypatch):
    right = prefix.answer_loss_on_prefixes

    def detached_in_part(*arguments, **keywords):
        loss = right(*arguments, **keywords)
        return 0.9 * loss + 0.1 * loss.detach()

    monkeypatch.setattr(prefix, "answer_loss_on_prefixes", detached_in_part)
    reuses, heard = fast_and_plain(staged(), tmp_path)
    assert not reuses
    assert "differs" in heard[0]


def test_prefixes_are_copied_where_attention_cannot_read_them_in_place_and_this_is_said(tmp_path, monkeypatch):
    right = prefix_attention.prefix_attention

    def refuses(*arguments, **keywords):
        raise ValueError("an attention of its own")

    monkeypatch.setitem(prefix_attention.AttentionInterface._global_mapping, prefix_attention.NAME, refuses)
    reuses, heard = fast_and_plain(staged(), tmp_path)
    assert reuses
    assert heard[0] == (
        "prefixes are copied at every step, attention cannot read them in place: ValueError: an attention of its own"
    )
    assert heard[1].startswith("prefixes reused")
    off = {"scaling": 0.5}
    monkeypatch.setitem(
        prefix_attention.AttentionInterface._global_mapping, prefix_attention.NAME, lambda *a, **k: right(*a, **k | off)
    )
    reuses, heard = fast_and_plain(staged(), tmp_path)
    assert reuses
    assert "cannot read them in place: it differs from the plain path by" in heard[0]


@pytest.mark.parametrize(("asked", "in_place"), [("auto", True), ("sdpa", False), ("eager", False)])
def test_prefixes_are_read_in_place_unless_an_attention_is_asked_for(asked, in_place, tmp_path):
    loss, _ = loss_for(staged(), ReftStage(**REFT, positions="l2"), ROWS, 0, 3, tmp_path, Reporter(), asked)
    assert loss.keywords["reuse"].in_place == in_place
