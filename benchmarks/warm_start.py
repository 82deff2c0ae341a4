"""Whether a ReFT stage behind LoRA ends better where its edits start in the directions in which LoRA moves states.

    python benchmarks/warm_start.py run --data DIR --tasks DIR --out OUT [--cells sst2-300 …] [--seeds 3]
    python benchmarks/warm_start.py table

In each cell (see two_stages.py) and with each seed, LoRA (`l4+`, rank 8, 1e-3) is trained for one epoch; on it, frozen,
ReFT (`l4+`, rank 4) for three epochs with two rates and two starts of R: at random, as heft has it, and the right
singular vectors of h with LoRA − h without it, at the last four prompt tokens of all training rows, in each layer. Both
starts change nothing at first. `run` goes on where it was stopped, and writes warm_start_results.json: accuracy and
the mean cross-entropy of the choices on the evaluation rows, seed by seed.
"""

import argparse
import json
import math
import statistics
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from second_stage import interval, parser_of
from second_stage_defaults import trained
from two_stages import recipe_of

from heft.adapters.attach import base_alone
from heft.adapters.existing import begin_stage
from heft.data.rows import read_data
from heft.models.forward import logits_of
from heft.recipe.files import resolved
from heft.recipe.recipe import Recipe
from heft.reft.layer import layers_of
from heft.reft.sites import block_names
from heft.run import stage_loop
from heft.runtime.reporter import Reporter

RESULTS = Path(__file__).parent / "warm_start_results.json"
RANK, LAST = 4, 4
COARSE = {"method": "lora", "positions": "l4+", "rank": 8, "learning_rate": 1e-3, "epochs": 1}
FINE = {"method": "reft", "positions": f"l{LAST}+", "rank": RANK, "epochs": 3}
RATES, STARTS = (2e-4, 6e-4), ("random", "shift")


def main() -> None:
    parser = parser_of(__doc__, ["sst2-300"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--eval-rows", type=int, default=600)
    options = parser.parse_args()
    if options.what == "table":
        table(json.loads(RESULTS.read_text()))
        return
    found = {cell: cell_of(cell, options) for cell in options.cells}
    before = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps(before | found, indent=1) + "\n")


def cell_of(cell: str, options: argparse.Namespace) -> dict[str, list]:
    """Accuracy and loss of every configuration, by seed."""
    common = recipe_of(cell, options)
    batch = {"batch_size": common["stages"]["coarse"]["batch_size"]}
    found: dict[str, list] = {}
    for seed in range(options.seeds):
        folder = options.out / cell / f"seed-{seed}"
        first = trained(common, seed, folder / "coarse", {"coarse": COARSE | batch}, [])
        found.setdefault("LoRA alone", []).append(figures(first, "coarse"))
        below = {"coarse": {"method": "lora", "from": str((first / "adapter").resolve())}}
        for rate in RATES:
            for start in STARTS:
                stages = below | {"fine": FINE | batch | {"learning_rate": rate}}
                run = trained_from(start, common, seed, folder / f"{start}-{rate:g}", stages, first)
                found.setdefault(f"{start} {rate:g}", []).append(figures(run, "fine"))
                print(cell, seed, start, rate, found[f"{start} {rate:g}"][-1], flush=True)
    return found


def trained_from(start: str, common: dict, seed: int, folder: Path, stages: dict, first: Path) -> Path:
    """The directory of a run of these stages with this start of R, behind the run `first`."""
    begin = begin_stage
    if start == "shift":
        recipe = resolved(Recipe.model_validate(common | {"stages": stages, "seed": seed}))
        begin = partial(begin_in_the_shift, [row.prompt for row in read_data(recipe, Reporter()).train])
    with patch.object(stage_loop, "begin_stage", begin):
        return trained(common, seed, folder, stages, [first])


def begin_in_the_shift(prompts, model, name, stage, tokenizer=None):
    """In place of `begin_stage`, for a ReFT stage behind LoRA."""
    after = states(model, prompts)
    with base_alone(model):
        before = states(model, prompts)
    found = begin_stage(model, name, stage, tokenizer)
    layers, blocks = layers_of(model), list(before)
    assert len(layers) == len(blocks)
    for layer, block in zip(layers.values(), blocks, strict=True):
        _, _, directions = torch.linalg.svd(torch.cat(after[block]) - torch.cat(before[block]), full_matrices=False)
        for _, unit in layer.units():
            with torch.no_grad():
                unit.rotation.copy_(directions[:RANK])
                unit.weight.copy_(unit.rotation)
                assert unit.bias.abs().max() == 0
    return found


@torch.no_grad()
def states(model, prompts: list[list[int]]) -> dict[str, list[torch.Tensor]]:
    """Outputs of every block at the last prompt tokens, prompt by prompt."""
    model.eval()
    found: dict[str, list[torch.Tensor]] = {}
    handles = []
    for block in block_names(model):

        def keep(module, inputs, output, block=block):
            hidden = output[0] if isinstance(output, tuple) else output
            found.setdefault(block, []).append(hidden[0, -LAST:].float())

        handles.append(model.get_submodule(block).register_forward_hook(keep))
    for prompt in prompts:
        logits_of(model, 1, input_ids=torch.tensor([prompt]), prompt_lengths=torch.tensor([len(prompt)]))
    for handle in handles:
        handle.remove()
    return found


def figures(run: Path, stage: str) -> list[float]:
    """Accuracy, and mean −ln of the right choice's share."""
    losses, right = [], []
    for line in (run / "records" / f"{stage}.jsonl").read_text().splitlines():
        record = json.loads(line)
        scores = record["log_likelihoods"]
        top = max(scores)
        losses.append(top + math.log(sum(math.exp(each - top) for each in scores)) - scores[record["gold"]])
        right.append(record["correct"])
    return [statistics.mean(right), statistics.mean(losses)]


def table(found: dict[str, dict[str, list]]) -> None:
    """Means over seeds, and what a start in the shift changes, with t intervals over seeds."""
    print("| cell | configuration | seeds | accuracy, % | loss | points more than with a random start (95 %) |")
    print("|---|---|---|---|---|---|")
    for cell, configurations in found.items():
        for name, seeds in configurations.items():
            other = configurations.get(name.replace("shift", "random")) if name.startswith("shift") else None
            more = [100 * (one[0] - two[0]) for one, two in zip(seeds, other or [], strict=False)]
            accuracy, loss = (statistics.mean(each[place] for each in seeds) for place in (0, 1))
            print(f"| {cell} | {name} | {len(seeds)} | {100 * accuracy:.1f} | {loss:.3f} | {interval(more)} |")


if __name__ == "__main__":
    main()
