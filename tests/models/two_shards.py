"""Run by torchrun: what each of two processes holds of a sharded model, and what comes back; as JSON."""

import json
import os
import sys

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import distributed
from torch.distributed.tensor import DTensor

from heft.adapters.attach import inject, train_only
from heft.models.sharding import is_sharded, sharded_copy, whole
from heft.reft import ReftConfig
from heft.training.modes import trained_parameters
from heft.training.snapshot import copied, restore_optimizer, restore_weights
from reft.support import perturb, token_ids
from tiny import tiny_model


def adapted() -> torch.nn.Module:
    """A tiny model with a LoRA and a ReFT adapter, both training."""
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = inject_adapter_in_model(lora, tiny_model(), adapter_name="coarse")
    inject(model, "fine", ReftConfig(positions="l2"))
    train_only(perturb(model), ["coarse", "fine"])
    return model


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(input_ids=token_ids(2, 8), prompt_lengths=torch.tensor([5, 5])).logits.square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def own_slices(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.to_local().detach().clone() for name, each in trained_parameters(model).items()}


def found() -> dict:
    model = adapted()
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    with sharded_copy(model, torch.device("cpu")) as shards:
        blocks = {n: p for n, p in shards.named_parameters() if ".layers." in n}
        optimizer = torch.optim.AdamW(trained_parameters(shards).values(), lr=1e-2)
        step(shards, optimizer)
        weights, state = copied(trained_parameters(shards)), copied(optimizer.state_dict())
        slices = own_slices(shards)
        moments = {n: whole(e["exp_avg"]).clone() for n, e in optimizer.state_dict()["state"].items()}
        with torch.no_grad():
            for parameter in trained_parameters(shards).values():
                parameter.zero_()
        zeroed = any(bool(each.any()) for each in own_slices(shards).values())
        restore_weights(trained_parameters(shards), weights)
        again = torch.optim.AdamW(trained_parameters(shards).values(), lr=1e-2)
        restore_optimizer(again, state)
        restored = own_slices(shards)
        kinds = {type(e["exp_avg"]) is DTensor for e in again.state_dict()["state"].values()}
        result = {
            "whole before": not is_sharded(model),
            "slices": all(isinstance(p, DTensor) for p in blocks.values()),
            "held": sum(p.to_local().numel() for p in blocks.values()) / sum(p.numel() for p in blocks.values()),
            "own slices": all(torch.equal(restored[name], slices[name]) for name in slices),
            "own slices were zero": not zeroed,
            "moments": all(
                torch.equal(whole(e["exp_avg"]), moments[n]) for n, e in again.state_dict()["state"].items()
            ),
            "moments are slices": kinds == {True},
        }
    after = dict(model.named_parameters())
    trained = {name for name, each in after.items() if each.requires_grad}
    result["written back"] = all(torch.equal(after[name], weights[name]) for name in trained)
    result["moved"] = all(not torch.equal(after[name], before[name]) for name in trained if "rotation" not in name)
    result["base is untouched"] = all(torch.equal(after[name], before[name]) for name in after.keys() - trained)
    result["whole afterwards"] = not is_sharded(model)
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    everyone = [None, None]
    distributed.all_gather_object(everyone, found())
    if distributed.get_rank() == 0:
        with open(sys.argv[1], "w") as file:
            json.dump(everyone, file)
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort a Python that ends under load
