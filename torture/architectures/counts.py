"""FLOPs of a forward pass, as `heft plan` counts them without weights, against torch's counter of what ran."""

import sys
from pathlib import Path

import torch
import transformers

from heft.costs.operations import Uncountable, model_costs
from heft.costs.rows import span

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from counting import counted

TOKENS = 256
"""A multiple of the chunks that recurrent layers pad to."""
APART = 0.03
"""Of the FLOPs; the recurrent layers of a tiny model are most of it, and their chunks are counted as if always full."""


def check(folder: Path) -> dict:
    """What is wrong with the count of a model; nothing where heft says that it cannot count it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    model.eval().requires_grad_(False)
    model.set_experts_implementation("batched_mm")  # so that every expert of a token is a product of its own
    ids = (torch.arange(TOKENS) % 200 + 3)[None]
    with torch.no_grad():
        ran = counted(lambda: model(input_ids=ids, use_cache=False))
    try:
        costs = model_costs(model.to("meta"))
    except Uncountable:
        return {"faults": {}}
    ratio = span(costs, TOKENS, 0, TOKENS, TOKENS).forward / ran
    return {"faults": {} if abs(ratio - 1) <= APART else {"FLOPs": f"{ratio:.4f} of what ran"}}
