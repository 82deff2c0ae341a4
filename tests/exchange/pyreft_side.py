"""Runs in pyreft's own environment: makes directories with pyreft and computes logits of such, as its users do.

    python pyreft_side.py JOBS.json

A job is {"do": "make", "base", "folder", "class", "components", "layers", "rank", "options", "float", ...} or
{"do": "load", "base", "folder", ...}; both write the logits of "ids" to "logits" with the positions "position" and
"share_weights" of prompts of "prompt" tokens.
"""

import json
import sys
from pathlib import Path

import pyreft
import torch
from transformers import AutoModelForCausalLM


def base_of(job: dict):
    return AutoModelForCausalLM.from_pretrained(
        job["base"], torch_dtype=getattr(torch, job.get("dtype", "float32"))
    ).eval()


def made(job: dict):
    torch.manual_seed(job.get("seed", 3))
    model = base_of(job)
    kind = getattr(pyreft, job["class"])
    options = {"embed_dim": model.config.hidden_size, "low_rank_dimension": job["rank"], "dtype": torch.float32}
    reft = pyreft.get_reft_model(
        model,
        pyreft.ReftConfig(
            representations=[
                {
                    "layer": layer,
                    "component": job["component"].format(layer),
                    "low_rank_dimension": job["rank"],
                    "intervention": kind(**options, **job.get("options", {})),
                }
                for layer in job["layers"]
            ]
        ),
    )
    with torch.no_grad():
        for intervention in reft.interventions.values():
            for name, parameter in intervention.named_parameters():
                if "rotate" not in name:
                    parameter.copy_(0.3 * torch.randn(parameter.shape))
    reft.save(job["folder"])
    return reft


@torch.no_grad()
def logits(reft, job: dict) -> torch.Tensor:
    locations = pyreft.get_intervention_locations(
        last_position=job["prompt"],
        positions=job["position"],
        num_interventions=len(reft.interventions),
        share_weights=job["share_weights"],
    )
    ids = torch.tensor(job["ids"])
    by_row = torch.tensor([locations] * len(ids)).permute(1, 0, 2).tolist()
    return reft({"input_ids": ids}, unit_locations={"sources->base": (None, by_row)})[1].logits.float()


for each in json.loads(Path(sys.argv[1]).read_text()):
    model = made(each) if each["do"] == "make" else pyreft.ReftModel.load(each["folder"], base_of(each))
    torch.save(logits(model, each), each["logits"])
