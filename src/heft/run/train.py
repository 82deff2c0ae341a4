"""`heft train`: a recipe from its checks to its run directory."""

import platform
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from heft import __version__
from heft.adapters import directory as adapter_dir
from heft.adapters.attach import check_targets
from heft.adapters.existing import check_sources, sources_of
from heft.adapters.lora import has_tied_head
from heft.adapters.manifest import FORMAT, AdapterEntry, AdapterManifest, SourceEntry, read_manifest
from heft.adapters.methods import adapters_of
from heft.adapters.safety import adapter_folder, adapter_paths
from heft.adapters.weights import read_shapes
from heft.costs.stage import shape_in_training
from heft.data.encode import EncodedExample
from heft.data.rows import Data, dated, read_data
from heft.errors import HeftError
from heft.models.fingerprints import tokenizer_fingerprint
from heft.models.forward import attention_of
from heft.models.load import Base, choose_device, load_base
from heft.models.source import local_folder
from heft.recipe.defaults import Facts, with_defaults
from heft.recipe.files import dump_recipe, load_recipe, resolved, rows_in_memory, with_rows_as_files
from heft.recipe.grid import refuse_sweep
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import Recipe
from heft.results.summary import StageSummary, read_summaries
from heft.run.base_evaluation import find_base_evaluation
from heft.run.begun import (
    clear_first_files,
    is_begun,
    is_finished,
    model_begun_with,
    require_free,
    require_same,
)
from heft.run.directory import RUN_FORMAT, RunDirectory
from heft.run.replace import remove_run, require_output
from heft.run.stage_loop import StageLoop
from heft.run.tails import require_tails
from heft.run.unchanged import RowsNow, fingerprints
from heft.runtime import distributed
from heft.runtime.reporter import Reporter, Reporters
from heft.runtime.trackers import Trackers, require_trackers, tracking
from heft.storage.locks import locked

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        directory: where it is.
        stages: figures of the base, then of the model after each stage.
    """

    directory: Path
    stages: list[StageSummary]


def train(
    recipe: Recipe | str | Path,
    reporter: Reporter | None = None,
    resume: bool = False,
    base_from: Iterable[Path] = (),
    overwrite: bool = False,
) -> Run:
    """Run a recipe: evaluate the base, train each stage and evaluate after it, write the run directory.

    Under torchrun or accelerate launch the processes train together, with the result of one; the main one writes.

    Args:
        recipe: a recipe, or the path of one.
        reporter: hears what happens, in the main process; None for no one.
        resume: continue from the last checkpoint in the run directory, or start if there is none. Adapters (to the
            bit on a CPU) and records are those of a run that was never interrupted.
        base_from: directories of runs; the evaluation of the base is taken from one of them if it is the same, with the
            seconds that it took there.
        overwrite: replace the run that is in the run directory, once the recipe, its data and its model are found
            sound.

    Raises:
        HeftError: something in the recipe, its data or its model is wrong, and nothing has been written; or the
            directory is locked by another process, or holds something that this recipe cannot resume.
    """
    recipe = load_recipe(recipe) if isinstance(recipe, str | Path) else recipe
    if resume and overwrite:
        raise HeftError("resume continues a run and overwrite removes it; give one of them")
    reporter = reporter if reporter is not None and distributed.is_main() else Reporter()
    refuse_sweep(recipe)
    require_trackers(recipe)
    device = choose_device(recipe.model.device)
    distributed.init(device)
    if distributed.runs_as(recipe.distributed):
        reporter.note(distributed.runs_as(recipe.distributed))
    path = recipe.output_dir
    begun = resume and is_begun(path)
    with ExitStack() as until_the_end:
        if begun:
            until_the_end.enter_context(_held(path))
            recipe = require_same(recipe)
            if is_finished(path):
                RowsNow(reporter).require_unchanged(path, recipe)
                return Run(path, _finished(recipe))
        elif overwrite:
            require_output(recipe, overwrite=True)
        else:
            _require_room(path, resume)
        recipe = resolved(dated(recipe, reporter))
        data = read_data(recipe, reporter)
        settings = model_begun_with(path, recipe.model) if begun else recipe.model
        base = _sound_base(recipe, settings, data.train, reporter)
        require_tails(recipe, [*data.train, *data.eval])
        recipe = with_defaults(recipe, Facts(len(data.train), base.model.num_parameters()), reporter.note)
        distributed.barrier()  # each has seen that the directory is free
        directory = RunDirectory(path, writes=distributed.is_main())
        reporter = Reporters([directory, reporter])
        manifest = run_manifest(recipe, base, data)
        if begun:
            _resume(directory, manifest, reporter)
        reporter = until_the_end.enter_context(_tracked(recipe, directory, reporter, is_resumed=begun))
        if not begun:
            if overwrite and distributed.is_main():
                remove_run(path)
            until_the_end.enter_context(_held(path))
            directory.create(dump_recipe(with_rows_as_files(recipe)), manifest, rows_in_memory(recipe))
        _take_base(directory, base_from, recipe, manifest, reporter)
        work = StageLoop(recipe, base, data, directory, reporter)
        work.run()
        if distributed.is_main():
            adapter_dir.save(directory.adapter, base.model, adapter_manifest(recipe, base))
            adapter_dir.require_readable(directory.adapter, base.model)  # before the run counts as finished
            shutil.rmtree(directory.checkpoints, ignore_errors=True)
        distributed.barrier()  # each may now load what was saved
        return Run(directory.path, directory.summaries)


def _require_shardable(recipe: Recipe, base: Base) -> None:
    """Require, where the model is to be sharded (heft.models.sharding), that it and what trains it can be.

    Raises:
        HeftError: something cannot; all of it.
    """
    if not distributed.shards(recipe.distributed):
        return
    faults = []
    if base.settings.quantization:
        faults.append(
            f"model.quantization: {base.settings.quantization} packs weights, and no process has a part of one"
        )
    for name, stage in recipe.stages.items():
        if not stage.is_frozen and stage.optimizer == "adafactor":
            faults.append(f"stages.{name}.optimizer: adafactor keeps sums over whole weights; take adamw or sgd")
        if has_tied_head(base.model) and any(adapter.trains_tokens for adapter in adapters_of(name, stage)):
            text = "the output head, which is not sharded, has the embeddings' tokens in this model"
            faults.append(f"stages.{name}.trainable_tokens: {text}")
    if faults:
        raise HeftError("\n".join([*faults, "change that, or set distributed: ddp"]))


def _sound_base(recipe: Recipe, settings: ModelSettings, rows: Sequence[EncodedExample], reporter: Reporter) -> Base:
    """The base, loaded, in which every adapter of the recipe has a place.

    Raises:
        HeftError: it cannot be loaded, or an adapter has none.
    """
    reporter.note(f"loading {recipe.model.name}")
    base = load_base(settings, distributed.shards(recipe.distributed))
    _require_shardable(recipe, base)
    check_targets(base.model, recipe, base.tokenizer)
    check_sources(base.model, recipe, base.fingerprint, reporter.warn)
    loaded = recipe.model_copy(update={"model": base.settings})
    shape_in_training(loaded, list(recipe.stages)[-1], rows)  # refuses what PEFT would refuse after hours of training
    return base


@contextmanager
def _tracked(recipe: Recipe, directory: RunDirectory, reporter: Reporters, is_resumed: bool) -> Iterator[Reporters]:
    """Meanwhile the recipe's trackers hear what the reporter hears."""
    if not (recipe.trackers and distributed.is_main()):
        yield reporter
        return
    steps = sum(summary.steps for summary in directory.summaries)
    with tracking(Trackers(recipe, directory.path, reporter, steps, is_resumed)) as trackers:
        yield Reporters([*reporter.listeners, trackers])


def _resume(directory: RunDirectory, manifest: dict, reporter: Reporter) -> None:
    others = directory.resume(manifest)
    if others:
        reporter.warn(
            f"begun with {others}: the result may differ in its last bits from that of a run without interruption"
        )


def _require_room(path: Path, resume: bool) -> None:
    """Require that a run may begin there; with `resume`, what a run left before it did anything is removed."""
    if resume and distributed.is_main():
        clear_first_files(path)
    distributed.barrier()
    require_free(path)


def _finished(recipe: Recipe) -> list[StageSummary]:
    """The figures of a finished run, all of whose files are there and readable; checkpoints that are left go.

    Raises:
        HeftError: one is not.
    """
    path = recipe.output_dir
    for entry in read_manifest(path / "adapter").adapters:
        read_shapes(adapter_paths(adapter_folder(path / "adapter", entry.name))[1])
    summaries = read_summaries(path)
    if [summary.name for summary in summaries] != ["base", *recipe.stages]:
        raise HeftError(
            f"{path} has its adapter, but summary.json has not the figures of all stages; `heft eval` repeats the last,"
            " and another directory (--output DIR) the run"
        )
    shutil.rmtree(RunDirectory(path).checkpoints, ignore_errors=True)
    return summaries


def _take_base(
    directory: RunDirectory, runs: Iterable[Path], recipe: Recipe, manifest: dict, reporter: Reporter
) -> None:
    found = None if directory.summaries else find_base_evaluation(runs, recipe, manifest)
    if found is not None:
        run, summary, records = found
        reporter.note(f"the base is evaluated already, in {run}")
        reporter.evaluated(summary, records)


def _held(path: Path) -> AbstractContextManager:
    """The run's directory, held against other runs; of several processes of one run, the main one holds it."""
    return locked(path, "run") if distributed.is_main() else nullcontext()


def run_manifest(recipe: Recipe, base: Base, data: Data) -> dict:
    """What manifest.json holds: format, versions, seed, the date in prompts (None: none), fingerprints, and what stages
    start from."""
    return {
        "format": RUN_FORMAT,
        "heft_version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "device": str(choose_device(base.settings.device)),
        "seed": recipe.seed,
        "template_date": recipe.task.template_date,
        "base": {
            "name": recipe.model.name,
            "fingerprint": base.fingerprint,
            "dtype": base.settings.dtype,
            "attention": attention_of(base.model),
            "parameters": base.model.num_parameters(),
        },
        "data": fingerprints(data),
        "sources": {name: source.described() for name, source in sources_of(recipe).items()},
    }


def adapter_manifest(recipe: Recipe, base: Base) -> AdapterManifest:
    """What heft.json holds of a recipe's adapters."""
    sources = {name: SourceEntry(**source.described()) for name, source in sources_of(recipe).items()}
    entries = [
        AdapterEntry(name=adapter.name, method=adapter.method, stage=name, source=sources.get(name))
        for name, stage in recipe.stages.items()
        for adapter in adapters_of(name, stage)
    ]
    folder = local_folder(recipe.model.name)
    return AdapterManifest(
        format=FORMAT,
        heft_version=__version__,
        model=recipe.model.model_copy(
            update={"dtype": base.settings.dtype, "quantization": base.settings.quantization}
        ),
        base_folder=None if folder is None else str(folder),
        base_fingerprint=base.fingerprint,
        tokenizer_fingerprint=tokenizer_fingerprint(base.tokenizer, recipe.task.chat_template),
        adapters=entries,
        task=with_rows_as_files(recipe, "../rows").task.model_dump(),
        evaluation=recipe.evaluation.model_dump(),
    )
