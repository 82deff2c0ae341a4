"""LoRA branches of frozen adapters: PEFT's logits, by the short way where it is meant to be taken."""

import pytest
import torch
from serve_making import LORA, TAIL, make_run

from heft.adapters.manifest import read_manifest
from heft.models.load import load_base
from heft.serving import branches
from heft.serving.branches import Parts, ServedLinear, served_lora
from heft.serving.catalog import Catalog
from heft.serving.forward import Passes, Row

ONWARD = "coarse: {method: lora, rank: 2, positions: l4+}"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = [make_run(folder, name, stages) for name, stages in (("two", f"{LORA}, {TAIL}"), ("onward", ONWARD))]
    catalog = Catalog(load_base(read_manifest(runs[0]).model), True)
    for run in runs:
        catalog.load(run)
    return catalog


def _logits(catalog, names):
    rows = [Row(catalog.find(name), tuple(range(5 + n, 25 - n)), 20 - 2 * n) for n, name in enumerate(names)]
    catalog.switch.to(catalog.adapters_of([row.served for row in rows]))
    return torch.cat([each.logits_KV[-1] for each in Passes(catalog).whole(rows)])


@pytest.mark.parametrize("few", [0, 1000], ids=["gathered", "masked"])
@pytest.mark.parametrize(
    ("names", "simple"),
    [
        (["two"], True),
        (["two:coarse"], True),
        (["onward"], False),  # acts on the last tokens alone
        (["two", "onward", "random:tiny-llama"], False),
        (["onward", "random:tiny-llama", "two:coarse", "two"], False),
        (["random:tiny-llama"], None),
    ],
)
def test_the_logits_are_pefts_to_rounding(catalog, names, simple, few, monkeypatch):
    monkeypatch.setattr(branches, "FEW", few)
    plain, found = _logits(catalog, names), []
    of = Parts.of
    monkeypatch.setattr(Parts, "of", lambda self, layer: found.append(of(self, layer)) or found[-1])
    with served_lora(catalog.model, catalog.tracker) as count:
        _logits(catalog, ["onward", "two"])  # whose weights are not those that the next pass needs
        found.clear()
        fast = _logits(catalog, names)
    # products of other shapes add up in another order: 1.2e-5 on an Intel processor with AMX, less elsewhere
    torch.testing.assert_close(fast, plain, rtol=0, atol=2e-5 * plain.abs().max().item())
    assert count > 0
    assert None not in found
    if simple is not None:
        assert any(part.one is not None for part in found) == simple
        assert any(part.numbers for part in found)


def test_afterwards_the_layers_are_pefts_own(catalog):
    before = {name: type(module) for name, module in catalog.model.named_modules()}
    with served_lora(catalog.model, catalog.tracker):
        assert any(isinstance(module, ServedLinear) for module in catalog.model.modules())
    assert {name: type(module) for name, module in catalog.model.named_modules()} == before
    assert not any("down_KIR" in vars(module) for module in catalog.model.modules())
