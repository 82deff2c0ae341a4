"""Adapters whose tensors stand where they do nothing are told apart from adapters that are lost."""

import pytest
import torch

from heft.adapters.attach import adapter_parameters, attach, finish
from heft.adapters.directory import save
from heft.adapters.manifest import FORMAT, AdapterEntry, AdapterManifest
from heft.builtin import TINY
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import LoraStage, ReftStage
from heft.verify.effect import AT_IDENTITY, check_effect, largest_update
from heft.verify.finding import DOES_NOT_APPLY, OK
from heft.verify.subject import open_subject

FRESH = {
    "lora": LoraStage(method="lora", rank=2, steps=1),
    "dora": LoraStage(method="lora", rank=2, dora=True, steps=1),
    "loreft": ReftStage(method="reft", positions="f1+l2", steps=1),
    "noreft": ReftStage(method="reft", intervention="noreft", positions="f1+l2", tied=False, steps=1),
    "direft": ReftStage(method="reft", intervention="direft", positions="all", steps=1),
    "lobireft": ReftStage(method="reft", intervention="lobireft", positions="l2", steps=1),
}


def directory_of(folder, name, stage, shake=0.0):
    """An adapter directory with one adapter as it is attached, or moved away from there."""
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    attached = attach(base.model, name, stage)
    parameters = adapter_parameters(base.model, attached.names)
    with torch.no_grad():
        for key, parameter in parameters.items():
            if shake and ("lora_magnitude" in key or "lora_B" in key or key.endswith(("bias", "weight", "basis"))):
                parameter.add_(shake * torch.ones_like(parameter))
    finish(base.model, attached)
    save(
        folder / "adapter",
        base.model,
        AdapterManifest(
            format=FORMAT,
            heft_version="0",
            model=base.settings,
            base_fingerprint=base.fingerprint,
            adapters=[AdapterEntry(name=name, method=stage.method, stage=name)],
            task={"name": "whereabouts", "moves": 1, "eval_size": 4},
            evaluation={},
        ),
    )
    return folder / "adapter"


@pytest.mark.parametrize("name", FRESH)
def test_a_fresh_adapter_does_nothing_and_says_so_with_its_number(tmp_path, name):
    subject = open_subject(directory_of(tmp_path, name, FRESH[name]), rows=2)
    assert largest_update(subject, name) <= AT_IDENTITY
    (finding,) = [f for f in check_effect(subject) if f.check == "the adapters change something"]
    if finding.state == OK:  # W − R is zero but for rounding, and rounding is a change
        assert finding.difference < 1e-5
    else:
        assert finding.state == DOES_NOT_APPLY
        assert "saved tensors stand where they do nothing: their largest update is" in finding.compared


@pytest.mark.parametrize("name", FRESH)
def test_an_adapter_away_from_its_start_has_an_update_that_shows(tmp_path, name):
    subject = open_subject(directory_of(tmp_path, name, FRESH[name], shake=0.05), rows=2)
    assert largest_update(subject, name) > 1e-3
