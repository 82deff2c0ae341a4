"""Mixtures of experts in bfloat16, where rounding sends some tokens to other experts."""

import pytest
import torch
import transformers
from peft.tuners.lora import Linear

from heft.adapters.attach import activate, attach
from heft.adapters.manifest import AdapterEntry
from heft.exchange.export import export
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import LoraStage
from heft.verify.finding import FAILED
from heft.verify.verifier import verify
from saving import save_adapters
from tiny import byte_tokenizer

SIZES = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 16, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 2048}  # fmt: skip


def adapted(folder, seed, layers, experts, **lora):
    """An adapter directory of a LoRA that changes much, on a mixture of experts of a kind that is drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.MixtralConfig(**SIZES, num_hidden_layers=layers, num_local_experts=experts)
        transformers.MixtralForCausalLM(config).bfloat16().save_pretrained(folder / "base")
        byte_tokenizer().save_pretrained(folder / "base")
        base = load_base(ModelSettings(name=str(folder / "base"), device="cpu", dtype="bfloat16"))
        torch.manual_seed(1)
        attach(base.model, "coarse", LoraStage(method="lora", rank=2, **lora))
        with torch.no_grad():
            for parameter in base.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
    activate(base.model, ["coarse"])
    return save_adapters(folder / "adapter", base, [AdapterEntry(name="coarse", method="lora", stage="coarse")])


def states(directory):
    return {finding.check: finding.state for finding in verify(directory).findings}


@pytest.fixture(scope="module", params=[2, 3, 7])
def directory(request, tmp_path_factory):
    return adapted(tmp_path_factory.mktemp("mixture"), request.param, 4, 8)


def test_tokens_that_rounding_sends_to_other_experts_are_no_mistake(directory):
    assert FAILED not in states(directory).values()


def test_a_weight_that_is_merged_wrongly_is_found_all_the_same(directory, monkeypatch):
    merge_of_peft = Linear.merge

    def merge(layer, *args, **options):
        merge_of_peft(layer, *args, **options)
        layer.get_base_layer().weight.data *= 1.2

    monkeypatch.setattr(Linear, "merge", merge)
    assert states(directory)["merged against unmerged"] == FAILED


def test_an_export_is_not_refused_for_them(tmp_path):
    targets = ["experts.gate_up_proj", "experts.down_proj"]
    done = export(adapted(tmp_path, 0, 2, 4, targets=targets), "transformers", tmp_path / "out")
    assert done.difference > 0
