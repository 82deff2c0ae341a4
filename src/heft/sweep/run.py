"""`heft sweep`: a recipe with a `sweep`, from its checks to its directory.

recipe.yaml, manifest.json, metrics.jsonl   as in a run; metrics.jsonl has a line a step and configuration
results.json, results.csv, sweep.png        every configuration on the held-back rows, best first
winner.yaml                                 the best one as a recipe for `heft train`
adapter/                                    the earlier stages and the winner, as trained here
summary.json, records/                      the winner on the evaluation split, where the recipe asks for it
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from heft import adapter_dir
from heft.errors import HeftError
from heft.models import Base, load_base
from heft.recipe import Recipe
from heft.recipe_io import dump_recipe, load_recipe
from heft.reft.layer import ReftLayer
from heft.reft.settings import parse_positions
from heft.reporter import Reporter
from heft.run_dir import RunDirectory, StageSummary, require_free, write_text
from heft.runner import Data, Work, adapter_manifest, read_data, run_manifest
from heft.stages import adapter_parameters, attach, check_targets, edited_positions, finish
from heft.sweep.grid import Configuration, configurations, last_stage, recipe_of, require_sweep
from heft.sweep.learner import Learner
from heft.sweep.passes import Passes, StepStore, can_stand_side_by_side
from heft.sweep.report import label, plot, write_results
from heft.sweep.results import Result, best, rank
from heft.sweep.training import SideBySide
from heft.training.prefix import has_dropout
from heft.training.reuse import open_prefixes
from heft.training.stage import hold_back


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
        directory: where it is.
        results: every configuration, best first.
        winner: the best one's recipe.
        evaluation: the winner on the evaluation split, where the recipe asks for it.
        seconds: that the configurations took together.
    """

    directory: Path
    results: list[Result]
    winner: Recipe
    evaluation: StageSummary | None
    seconds: float


def sweep(recipe: Recipe | str | Path, reporter: Reporter | None = None) -> Sweep:
    """Train the earlier stages, then every configuration of the last one side by side; rank them and keep the best.

    Args:
        recipe: a recipe with a `sweep`, or the path of one.
        reporter: is told what happens; None for nobody.

    Raises:
        HeftError: something in the recipe, its data or its model is wrong (nothing has been written), or every
            configuration diverged.
    """
    recipe = load_recipe(recipe) if isinstance(recipe, str | Path) else recipe
    reporter = reporter or Reporter()
    require_sweep(recipe)
    require_free(recipe.output_dir)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise HeftError("a sweep runs in one process; start it without torchrun or accelerate launch")
    tried = configurations(recipe)
    data = _read_data(recipe, tried, reporter)
    reporter.note(f"loading {recipe.model.name}")
    base = load_base(recipe.model)
    for configuration in tried:
        check_targets(base.model, recipe_of(recipe, configuration))
    directory = RunDirectory(recipe.output_dir)
    directory.create(dump_recipe(recipe), run_manifest(recipe, base, data))
    work = Work(recipe, base, data, directory, reporter)
    earlier = list(recipe.stages.items())[:-1]
    for index, (name, stage) in enumerate(earlier):
        work.train_stage(index, name, stage)
    return _sweep_last_stage(work, tried, len(earlier))


def _read_data(recipe: Recipe, tried: Sequence[Configuration], reporter: Reporter) -> Data:
    """Rows that fit every configuration, and are to each of them what they are to it alone."""
    alone = [edited_positions(recipe_of(recipe, configuration)) for configuration in tried]
    data = read_data(recipe, reporter, [positions for each in alone for positions in each])
    heads = {max([16, *(p.first for p in positions)]) for positions in alone}
    if len(heads) > 1 and any(row.cut for row in data.train):
        raise HeftError(
            f"prompts are cut to task.max_length {recipe.task.max_length} behind the first tokens that are edited, and"
            " the positions of this sweep differ there, so that configurations would see different prompts: raise"
            " task.max_length, or sweep these positions apart"
        )
    holdout = tried[0].stage.holdout
    if round(holdout * len(data.train)) >= len(data.train):
        raise HeftError(f"a holdout of {holdout} of {len(data.train)} rows leaves none to train on; set sweep.holdout")
    return data


def _sweep_last_stage(work: Work, tried: Sequence[Configuration], index: int) -> Sweep:
    recipe, base, reporter, directory = work.recipe, work.base, work.reporter, work.directory
    rows, held_back = hold_back(work.data.train, tried[0].stage.holdout, recipe.seed + index)
    name, _ = last_stage(recipe)
    with tempfile.TemporaryDirectory(prefix="heft-") as scratch, _side_by_side(base):
        learners = [
            Learner(
                base.model, number, configuration, (rows, held_back), work.seed_of(index, configuration.stage), scratch
            )
            for number, configuration in enumerate(tried)
        ]
        _name_owners(base, tried)
        passes = _passes(base, learners, [*rows, *held_back], Path(scratch), reporter)
        held_back_rows = range(len(rows), len(rows) + len(held_back))
        training = SideBySide(learners, passes, held_back_rows, recipe.sweep.tokens_per_pass)
        reporter.note(
            f"{len(tried)} configurations of stage {name} side by side, ranked on {len(held_back):,} rows held back"
        )
        seconds = training.train(name, reporter, directory.add_metrics)
        results = rank(training, recipe.evaluation.normalize)
        winner = best(results)
        about = {"stage": name, "held_back_rows": len(held_back), "seconds": seconds}
        write_results(directory.path, results, {**about, "winner": winner and winner.name})
        plot(directory.path / "sweep.png", results, f"{recipe.name}: stage {name}, {len(held_back):,} held-back rows")
        if winner is None:
            raise HeftError(
                f"every configuration diverged (losses are in {directory.path / 'metrics.jsonl'}); lower learning_rate"
            )
        chosen = next(c for c in tried if c.name == winner.name)
        tensors = {k: p.detach().clone() for k, p in adapter_parameters(base.model, [chosen.adapter]).items()}
    return _keep_winner(work, results, chosen, tensors, seconds)


def _keep_winner(work: Work, results: list[Result], chosen: Configuration, tensors: dict, seconds: float) -> Sweep:
    """Write the winner's recipe and adapter; evaluate it where the recipe asks for that."""
    recipe, base, directory = work.recipe, work.base, work.directory
    name, _ = last_stage(recipe)
    winner = recipe_of(recipe, chosen)
    write_text(directory.path / "winner.yaml", _header(recipe, results[0]) + dump_recipe(winner))
    attached = attach(base.model, name, chosen.stage)
    with torch.no_grad():
        for key, parameter in adapter_parameters(base.model, [name]).items():
            parameter.copy_(tensors[key.replace(f".{name}.", f".{chosen.adapter}.")])
    finish(base.model, attached)
    adapter_dir.save(directory.adapter, base.model, adapter_manifest(winner, base))
    summary = None
    if recipe.sweep.evaluate_winner:
        evaluation = work.evaluate(name)
        parameters = results[0].trainable_parameters
        summary = StageSummary.of(
            name, evaluation.metrics, trainable_parameters=parameters, evaluation_seconds=evaluation.seconds
        )
        directory.add_evaluation(summary, evaluation.records)
    return Sweep(directory.path, results, winner, summary, seconds)


def _header(recipe: Recipe, result: Result) -> str:
    accuracy = "" if result.accuracy is None else f", accuracy {100 * result.accuracy:.1f} %"
    return (
        f"# The best of {recipe.name}'s sweep: {result.name}, {label(result)}.\n"
        f"# On the {result.n:,} rows held back from training: loss {result.loss:.4f}{accuracy}. It was chosen by that"
        " loss, so\n# an evaluation must use other rows. The stage holds these rows back here too, and so repeats the"
        " sweep's training;\n# set its holdout to 0 (and early_stop and best_checkpoint off) to train on all rows.\n"
    )


@contextmanager
def _side_by_side(base: Base) -> Iterator[None]:
    """Whatever adapters are attached while this is open are gone when it closes."""
    before = set(base.model.peft_config) if hasattr(base.model, "peft_config") else set()
    try:
        yield
    finally:
        added = [name for name in base.model.peft_config if name not in before]
        for module in list(base.model.modules()):
            layer = getattr(module, "reft", None)
            if isinstance(layer, ReftLayer):
                for name in set(added) & set(layer.positions):
                    layer.delete_adapter(name)
                layer.tracker.owners.clear()
                if not layer.positions:
                    layer.detach(module)
                if not layer.tracker.layers:
                    layer.tracker.detach(base.model)
        for name in added:
            del base.model.peft_config[name]


def _name_owners(base: Base, tried: Sequence[Configuration]) -> None:
    """From here on each configuration's adapter edits its own tokens only."""
    layer = next(module for module in base.model.modules() if isinstance(module, ReftLayer))
    layer.tracker.owners.update({configuration.adapter: number for number, configuration in enumerate(tried)})


def _passes(base: Base, learners: Sequence[Learner], examples: list, folder: Path, reporter: Reporter) -> Passes:
    """How the configurations go through the model; told to the reporter."""
    stages = [learner.configuration.stage for learner in learners]
    positions = [parse_positions(stage.positions) for stage in stages]
    passes = Passes(base.model, examples, positions, base.tokenizer.pad_token_id, stages[0].bf16)
    reusable = stages[0].reuse and can_stand_side_by_side(base.model)
    apart = frozenset(n for n, p in enumerate(positions) if reusable and not p.first and not p.every)
    if has_dropout(base.model):
        reporter.note("the base model has dropout of its own, so configurations draw other numbers than alone")
    if len(apart) < len(learners):
        reporter.note(f"{len(learners) - len(apart)} configurations run whole rows, in a pass of their own")
    if not apart:
        return passes
    rows = len(examples)
    orders = {(learners[n].seed, stages[n].batch_size) for n in apart}
    uses = len(orders) * max(learners[n].steps * stages[n].batch_size for n in apart) / rows
    reach = min(positions[n].last for n in apart)
    pad_id = base.tokenizer.pad_token_id
    reuse = open_prefixes(base.model, examples, reach, pad_id, stages[0].cache, uses, folder, reporter)
    if reuse.store.kind == "off":
        reuse = replace(reuse, store=StepStore())
    return replace(passes, reuse=reuse, apart=apart)
