"""Run by torchrun: two optimizer steps of a ReFT adapter over LoRA, sharded, in parallel or alone; losses as JSON."""

import json
import os
import sys

import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from heft.reft import ReftConfig
from reft.support import perturb, token_ids
from tiny import tiny_model

STEPS = 3


def adapted(positions: str) -> torch.nn.Module:
    lora = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(1)
    model = inject_adapter_in_model(lora, tiny_model(), adapter_name="coarse")
    model = perturb(get_peft_model(model, ReftConfig(positions=positions), adapter_name="fine"))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".reft_" in name)
    return model.train()


def batch(rank: int, count: int) -> dict[str, torch.Tensor]:
    """The rows of one process out of four, the whole four for one process alone."""
    ids = token_ids(4, 10)
    labels = ids.clone()
    labels[:, :7] = -100
    mine = slice(rank, None, count)
    return {"input_ids": ids[mine], "labels": labels[mine]}


def run(way: str, positions: str) -> list[float]:
    """Mean loss of all rows before each step."""
    rank, count = distributed.get_rank() if way != "alone" else 0, 2 if way != "alone" else 1
    model = adapted(positions)
    call = model
    if way == "sharded":
        for block in model.get_base_model().model.layers:
            fully_shard(block)
        call = fully_shard(model)
    elif way == "parallel":
        call = DistributedDataParallel(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    losses = []
    for _ in range(STEPS):
        loss = call(**batch(rank, count)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        if way != "alone":
            distributed.all_reduce(mean)
        losses.append(mean.item() / count)
    return losses


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    ways = sys.argv[1].split(",")
    found = {f"{way} {positions}": run(way, positions) for way in ways for positions in ("l2", "all")}
    if distributed.get_rank() == 0:
        with open(os.environ["LOSSES"], "w") as file:
            json.dump(found, file)
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort a Python that ends under load
