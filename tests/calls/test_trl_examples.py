"""examples/trl_*.py: each trains a new ReFT adapter and a stage of heft's, with the loss that is worked out by hand."""

import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel

import heft
from calls.examples import independent_loss
from calls.trainers import first_loss
from heft.adapters.attach import adapter_parameters, attach, finish
from heft.adapters.manifest import AdapterEntry
from heft.builtin import TINY, byte_tokenizer, tiny_llama
from heft.errors import HeftError
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import LoraStage, ReftStage
from reft.support import perturb
from saving import save_adapters

EXAMPLES = Path(__file__).parents[2] / "examples"
EXACT = {"bf16": False, "use_cpu": True} if torch.cuda.is_available() else {}
EXACT |= {"save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}
ONE_STEP = EXACT | {"max_steps": 1, "learning_rate": 0.0}
TOKENIZER = byte_tokenizer()
BETA = 0.5


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """LoRA, then ReFT at both ends of a prompt, both off the identity."""
    base, entries = load_base(ModelSettings(name=TINY, device="cpu")), []
    stages = {
        "coarse": LoraStage(method="lora", rank=2, steps=1),
        "fine": ReftStage(method="reft", rank=2, positions="f2+l3", tied=False, steps=1),
    }
    for name, stage in stages.items():
        attached = attach(base.model, name, stage)
        with torch.no_grad():
            for parameter in adapter_parameters(base.model, attached.names).values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9)))
        finish(base.model, attached)
        entries.append(AdapterEntry(name=name, method=stage.method, stage=name))
    return str(save_adapters(tmp_path_factory.mktemp("run") / "adapter", base, entries))


@pytest.fixture(params=["new", "fine"])
def start(request, directory, monkeypatch):
    """What an example is given: nothing, for a new adapter, or a run."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield () if request.param == "new" else (directory,)
    for name in [name for name in sys.modules if name.startswith("trl_")]:
        del sys.modules[name]


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def made(trainer, start):
    """Its model, with a new adapter off the identity, since that would hide where it acts."""
    if not start:
        perturb(trainer.model)
    names = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert names
    assert all((".default" if not start else ".fine") in name for name in names)
    return trainer.model


def reference(start):
    """The model before it trains."""
    return heft.load(*start)[0] if start else tiny_llama().eval()


def test_sft_has_the_mean_of_minus_ln_p_of_the_completions_tokens(start, tmp_path, monkeypatch):
    import trl_sft

    trainer = trl_sft.trainer(*start, output=str(tmp_path), **ONE_STEP)
    model = made(trainer, start)
    rows = [(ids_of(r["prompt"]), ids_of(r["completion"]) + [TOKENIZER.eos_token_id]) for r in trl_sft.ROWS]
    expected = independent_loss(model, rows)
    assert first_loss(trainer, monkeypatch) == pytest.approx(expected, abs=2e-6)


def test_dpo_has_the_loss_of_its_formula_against_the_model_before_training(start, tmp_path, monkeypatch):
    """−ln σ(β((π − ref)(chosen) − (π − ref)(rejected))), mean over pairs."""
    import trl_dpo

    trainer = trl_dpo.trainer(*start, output=str(tmp_path), beta=BETA, **ONE_STEP)
    model, before = made(trainer, start), reference(start)
    if start:
        with torch.no_grad():
            for parameter in (p for p in model.parameters() if p.requires_grad):
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    margins = []
    for row in trl_dpo.ROWS:
        prompt = ids_of(row["prompt"])
        answers = [ids_of(row[key]) + [TOKENIZER.eos_token_id] for key in ("chosen", "rejected")]
        ratios = [log_prob(model, prompt, answer) - log_prob(before, prompt, answer) for answer in answers]
        margins.append(ratios[0] - ratios[1])
    expected = -torch.nn.functional.logsigmoid(BETA * torch.stack(margins)).mean().item()
    assert abs(expected - 0.6931) > 1e-3, "else the policy is the reference"
    assert first_loss(trainer, monkeypatch) == pytest.approx(expected, abs=2e-5)


def test_grpo_has_advantages_loss_and_gradient_as_by_hand(start, tmp_path, monkeypatch):
    """Mean over tokens of ratio·(−A + β·(e^d − d − 1)), d = ln ref − ln p; in the first step the ratio is 1, and has a
    gradient.

    A is the reward less its group's mean, over its standard deviation. TRL's reference for a new adapter is the base.
    """
    import trl_grpo

    beta = 0.0 if start else 0.1
    options = {"beta": beta, "loss_type": "bnpo", "max_completion_length": 8} | ONE_STEP
    trainer = trl_grpo.trainer(*start, output=str(tmp_path), **options)
    model, before = made(trainer, start), reference(())
    seen, compute = [], trainer.compute_loss

    def watched(model, inputs, *args, **rest):
        loss = compute(model, inputs, *args, **rest)
        seen.append((inputs, loss.item()))
        return loss

    monkeypatch.setattr(trainer, "compute_loss", watched)
    trainer.train()
    inputs, loss = seen[0]
    rows = [_row(inputs, number) for number in range(len(inputs["prompt_ids"]))]
    rewards = torch.tensor(trl_grpo.short([TOKENIZER.decode(a, skip_special_tokens=True) for _, a in rows]))
    groups = rewards.view(-1, 4)
    advantages = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()
    assert advantages.abs().max() > 0.1
    assert torch.allclose(inputs["advantages"].float(), advantages, atol=1e-5)

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    terms = []
    for (prompt, answer), advantage in zip(rows, advantages, strict=True):
        own = _log_probs(model, prompt, answer)
        d = _log_probs(before, prompt, answer).detach() - own
        terms.append((own - own.detach()).exp() * (beta * (d.exp() - d - 1) - advantage))
    expected = torch.cat(terms).mean()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    by_hand = torch.autograd.grad(expected, parameters)
    found = torch.autograd.grad(compute(model.train(), inputs), parameters)
    found = torch.cat([gradient.flatten() for gradient in found])
    by_hand = torch.cat([gradient.flatten().float() for gradient in by_hand])
    assert by_hand.norm() > 1e-3
    assert (found - by_hand).norm() < 1e-4 * by_hand.norm()


def test_a_reference_that_trl_would_copy_of_a_stage_is_refused_with_what_to_pass(directory, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import trl_dpo
    import trl_grpo

    with pytest.raises(HeftError, match=r"no adapter named 'default'; the model carries coarse, fine.*beta=0"):
        trl_grpo.trainer(directory, output=str(tmp_path), beta=0.1, **ONE_STEP)
    monkeypatch.setattr(trl_dpo, "is_adapter", lambda name: False)
    with pytest.raises(HeftError, match=r"ref_model=heft.load\(DIR\)"):
        trl_dpo.trainer(directory, output=str(tmp_path), **ONE_STEP)


@pytest.mark.parametrize("kind", ["sft", "dpo", "grpo"])
def test_an_example_trains_what_is_to_train_and_saves_what_loads(kind, start, tmp_path):
    example = __import__(f"trl_{kind}")
    trainer = example.trainer(*start, output=str(tmp_path), **(EXACT | {"max_steps": 2, "learning_rate": 1e-2}))
    frozen = {name: p.clone() for name, p in trainer.model.named_parameters() if not p.requires_grad}
    trained = {name: p.clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    now = dict(trainer.model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    assert any(not torch.equal(now[name], value) for name, value in trained.items())
    ids, lengths = torch.tensor([ids_of("Question: is it?\nAnswer: yes")]), [20]
    if start:
        again, _ = heft.load(tmp_path / "saved")
    else:
        again = PeftModel.from_pretrained(tiny_llama().eval(), str(tmp_path / "saved")).eval()
    with torch.no_grad():
        expected = trainer.model.eval()(input_ids=ids, prompt_lengths=lengths).logits
        assert torch.equal(again(input_ids=ids, prompt_lengths=lengths).logits, expected)


def log_prob(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """ln p of an answer, summed; a model without adapters takes no prompt lengths."""
    with torch.no_grad():
        return _log_probs(model.eval(), prompt, answer).sum()


def _log_probs(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    lengths = {"prompt_lengths": [len(prompt)]} if hasattr(model, "peft_config") else {}
    logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False, **lengths).logits[0]
    log_probs = logits.double().log_softmax(-1)[len(prompt) - 1 : -1]
    return log_probs.gather(-1, torch.tensor(answer)[:, None])[:, 0]


def _row(inputs, number: int) -> tuple[list[int], list[int]]:
    """A prompt and its completion, as ids without padding."""
    parts = []
    for kind in ("prompt", "completion"):
        ids, mask = inputs[f"{kind}_ids"][number], inputs[f"{kind}_mask"][number].bool()
        parts.append(ids[mask].tolist())
    return parts[0], parts[1]
