"""`heft sweep`: a recipe with a `sweep`, from its checks to its directory.

recipe.yaml, manifest.json, metrics.jsonl   as in a run; metrics.jsonl has a line per step and configuration
results.json, results.csv, sweep.svg        every configuration on the validation rows, best first
winner.yaml                                 the best one as a recipe for `heft train`
adapter/                                    the earlier stages and the winner, as trained here
summary.json, records/                      the winner on the evaluation split, where the recipe asks for it
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from heft.adapters import directory as adapter_dir
from heft.adapters.attach import adapter_parameters, attach, check_targets, finish
from heft.adapters.existing import check_sources
from heft.adapters.methods import edited_positions
from heft.costs.pieces import evaluation_name, training_piece
from heft.costs.stage import stage_costs
from heft.data.encode import uncut_head
from heft.data.padding import padding_matters
from heft.data.rows import Data, dated, read_data
from heft.data.validation import split_validation
from heft.errors import HeftError
from heft.models.load import load_base
from heft.recipe.defaults import Facts, settled, with_defaults
from heft.recipe.files import dump_recipe, load_recipe, resolved, rows_in_memory, with_rows_as_files
from heft.recipe.grid import Configuration, configurations, last_stage, recipe_of, require_sweep
from heft.recipe.recipe import CheckpointSettings, Recipe
from heft.recipe.training import require_trained_rows
from heft.results.summary import StageSummary
from heft.run.directory import RunDirectory
from heft.run.replace import remove_run, require_output
from heft.run.stage_loop import StageLoop
from heft.run.tails import note_tails, require_tails
from heft.run.train import adapter_manifest, run_manifest
from heft.runtime import distributed
from heft.runtime.reporter import Piece, Reporter, Reporters
from heft.runtime.trackers import Trackers, require_trackers, tracking
from heft.storage.atomic import write_text
from heft.storage.locks import locked
from heft.sweep.arrange import side_by_side
from heft.sweep.packed_lora import require_apart
from heft.sweep.report import label, plot, write_results
from heft.sweep.results import Result, rank
from heft.text.units import percent, several
from heft.training.batches import TrainingData
from heft.training.checked_loss import longest_of
from heft.training.guards import flat_loss_note
from heft.training.stage import planned_passes


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


def sweep(recipe: Recipe | str | Path, reporter: Reporter | None = None, overwrite: bool = False) -> Sweep:
    """Train the earlier stages, then every configuration of the last one side by side; rank them and save the best.

    Args:
        recipe: a recipe with a `sweep`, or the path of one.
        reporter: receives progress and notes; None for nobody.
        overwrite: replace what a run or a sweep left in the directory, once everything has been checked.

    Raises:
        HeftError: something in the recipe, its data or its model is wrong (nothing has been written), rows have no
            finite loss, memory does not suffice for one row, every configuration diverged, or another process works in
            the directory.
    """
    recipe = load_recipe(recipe) if isinstance(recipe, str | Path) else recipe
    reporter = reporter or Reporter()
    require_sweep(recipe)
    require_trackers(recipe)
    require_output(recipe, overwrite)
    if distributed.count() > 1:
        raise HeftError("a sweep runs in one process; start it without torchrun or accelerate launch")
    recipe = resolved(dated(recipe, reporter))
    tried = configurations(recipe)
    data = _read_data(recipe, tried, reporter)
    reporter.note(f"loading {recipe.model.name}")
    base = load_base(recipe.model)
    facts = Facts(len(data.train), base.model.num_parameters())
    recipe, tried = with_defaults(recipe, facts, reporter.note), settled(tried, facts)
    if padding_matters(base.model, base.tokenizer.pad_token_id, longest_of(data.train)):
        raise HeftError(
            "a sweep runs rows of several lengths together, and padding changes what this model makes of a row; train"
            " the configurations one by one with heft train"
        )
    for configuration in tried:
        check_targets(base.model, recipe_of(recipe, configuration), base.tokenizer)
    require_apart(base.model, tried)
    check_sources(base.model, recipe, base.fingerprint, reporter.warn)
    require_tails(recipe, [*data.train, *data.eval])
    if recipe.checkpoint != CheckpointSettings():
        reporter.note("checkpoint settings are for runs of the winner; a sweep writes no checkpoints")
    if overwrite:
        remove_run(recipe.output_dir)
    directory = RunDirectory(recipe.output_dir)
    with tracking(Trackers(recipe, recipe.output_dir, reporter)) as trackers, locked(recipe.output_dir, "sweep"):
        directory.create(
            dump_recipe(with_rows_as_files(recipe)), run_manifest(recipe, base, data), rows_in_memory(recipe)
        )
        work = StageLoop(recipe, base, data, directory, Reporters([directory, reporter, trackers]))
        work.reporter.expected(_pieces(work, tried))
        for name, stage in list(recipe.stages.items())[:-1]:
            if stage.is_frozen:
                work.take(name, stage)
            else:
                work.train_stage(name, stage)
        return _sweep_last_stage(work, tried)


def _read_data(recipe: Recipe, tried: Sequence[Configuration], reporter: Reporter) -> Data:
    """Rows that fit every configuration, and are to each of them what they are to it alone."""
    alone = [edited_positions(recipe_of(recipe, configuration)) for configuration in tried]
    data = read_data(recipe, reporter, [positions for each in alone for positions in each])
    heads = {uncut_head(positions) for positions in alone}
    if len(heads) > 1 and any(row.cut for row in data.train):
        raise HeftError(
            f"prompts are cut to task.max_length {recipe.task.max_length} behind the first tokens that are edited, and"
            " the positions of this sweep differ there, so that configurations would see different prompts: raise"
            " task.max_length, or sweep these positions apart"
        )
    require_trained_rows("sweep.holdout", tried[0].stage.holdout, len(data.train))
    return data


def _pieces(work: StageLoop, tried: Sequence[Configuration]) -> list[Piece]:
    """What is to come, the configurations as one piece of the tokens of all."""
    recipe, train = work.recipe, work.data.train
    earlier = [(name, stage_costs(recipe, name, train)) for name in list(recipe.stages)[:-1]]
    pieces = [training_piece(name, costs) for name, costs in earlier if not costs.stage.is_frozen]
    trained, _ = split_validation(train, tried[0].stage.holdout, recipe.holdout_seed)
    rows = sum(planned_passes(each.stage, len(trained)) for each in tried) * len(trained)
    name, _ = last_stage(recipe)
    pieces.append(Piece(name, "training", rows, rows * sum(row.length for row in train) / len(train)))
    if recipe.sweep.evaluate_winner:
        tokens = sum(row.length for row in work.data.eval)
        pieces.append(Piece(evaluation_name(name), "evaluation", len(work.data.eval), tokens))
    return pieces


def _sweep_last_stage(work: StageLoop, tried: Sequence[Configuration]) -> Sweep:
    recipe, base, reporter, directory = work.recipe, work.base, work.reporter, work.directory
    name, _ = last_stage(recipe)
    rows, validation_rows = split_validation(work.data.train, tried[0].stage.holdout, recipe.holdout_seed)
    data = TrainingData(rows, validation_rows, base.tokenizer.pad_token_id)
    seeds = [recipe_of(recipe, configuration).stage_seed(name) for configuration in tried]
    with side_by_side(base, tried, data, seeds, recipe.sweep.tokens_per_pass, reporter) as training:
        reporter.note(
            f"{len(tried)} configurations of stage {name} side by side, ranked on {len(validation_rows):,} validation"
            " rows"
        )
        seconds = training.train(name, reporter).seconds
        results = rank(training, recipe.evaluation.normalize)
        for result in results:
            if not result.diverged and (note := flat_loss_note(f"{result.name} ({label(result)})", result.losses)):
                reporter.warn(note)
        winner = next((result for result in results if not result.diverged), None)
        about = {"stage": name, "validation_rows": len(validation_rows), "seconds": seconds}
        write_results(directory.path, results, {**about, "winner": winner and winner.name})
        title = f"{recipe.name}: stage {name}, {several(len(validation_rows), 'validation row')}"
        plot(directory.path / "sweep.svg", results, title)
        if winner is None:
            raise HeftError(
                f"every configuration diverged (losses are in {directory.path / 'metrics.jsonl'}); lower learning_rate"
            )
        chosen = next(c for c in tried if c.name == winner.name)
        tensors = {k: p.detach().clone() for k, p in adapter_parameters(base.model, [chosen.adapter]).items()}
    return _keep_winner(work, results, chosen, tensors, seconds)


def _keep_winner(work: StageLoop, results: list[Result], chosen: Configuration, tensors: dict, seconds: float) -> Sweep:
    """Write the winner's recipe and adapter; evaluate it where the recipe asks for that."""
    recipe, base, directory = work.recipe, work.base, work.directory
    name, _ = last_stage(recipe)
    winner = recipe_of(recipe, chosen)
    write_text(directory.path / "winner.yaml", _header(recipe, results[0]) + dump_recipe(with_rows_as_files(winner)))
    attached = attach(base.model, name, chosen.stage)
    with torch.no_grad():
        for key, parameter in adapter_parameters(base.model, [name]).items():
            parameter.copy_(tensors[key.replace(f".{name}.", f".{chosen.adapter}.")])
    finish(base.model, attached)
    note_tails(base.model, attached.names, [*work.data.train, *work.data.eval])
    adapter_dir.save(directory.adapter, base.model, adapter_manifest(winner, base))
    summary = None
    if recipe.sweep.evaluate_winner:
        figures = {"trainable_parameters": results[0].trainable_parameters, "steps": results[0].steps}
        summary = work.evaluate(name, stored_parameters=adapter_dir.stored_parameters(base.model), **figures)
    return Sweep(directory.path, results, winner, summary, seconds)


def _header(recipe: Recipe, result: Result) -> str:
    shares = {"expected errors": result.expected_errors, "accuracy": result.accuracy}
    found = "".join(f"{name} {percent(share)}, " for name, share in shares.items() if share is not None)
    rows = several(result.n, "validation row")
    return (
        f"# The best of {recipe.name}'s sweep: {result.name}, {label(result)}.\n"
        f"# On {rows}: {found}loss {result.loss:.4f}. The first of these chose it, so an\n"
        "# evaluation must use other rows. The stage has the same validation rows: it repeats the sweep's training.\n"
        "# Set its holdout to 0 (and early_stopping and best_checkpoint off) to train on all rows.\n"
    )
