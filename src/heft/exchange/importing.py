"""`heft import`: an adapter of PEFT's or pyreft's as an adapter directory, which every command takes."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from heft.adapters.attach import attach, finish
from heft.adapters.directory import require_readable, save
from heft.adapters.existing import check_sources, take_as_it_is
from heft.adapters.source import find_source
from heft.edits.positions import parse_positions
from heft.errors import HeftError
from heft.exchange.from_pyreft import PyreftAdapter, is_pyreft, read_pyreft
from heft.models.load import Base, load_base
from heft.models.source import local_folder
from heft.recipe.files import evaluation_request
from heft.recipe.recipe import Recipe
from heft.reft.layer import layers_of
from heft.run.train import adapter_manifest
from heft.settings.words import faults_of, in_one_line
from heft.storage.locks import in_turn
from heft.storage.reading import is_file
from heft.storage.targets import require_new_folder

FREE_PROMPTS = {"name": "rows", "train": "rows.jsonl", "prompt": "{prompt}", "answer": "completion"}
"""The task of an adapter of which no task is given: prompts go to the model as they are."""


def import_adapter(
    given: str,
    out: Path,
    base: str | None = None,
    stage: str | None = None,
    positions: str | None = None,
    activation: str | None = None,
    overrides: Sequence[str] = (),
    task: str | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> str:
    """Write an adapter of another library as a new adapter directory.

    Args:
        given: a folder of pyreft's, a folder of PEFT's LoRA, or a Hub id of one.
        out: the new directory, which appears whole or not at all.
        base: of the base model; None takes the one that PEFT's files name.
        stage: the name that the adapter gets; None is `coarse` for LoRA and `fine` for ReFT.
        positions, activation: of pyreft's interventions (heft.exchange.from_pyreft).
        overrides: `task.KEY=value`, `evaluation.KEY=value`, `model.KEY=value`.
        task: its name; None lets prompts go to the model as they are.
        warn: hears what may be wrong.

    Returns:
        What was imported, in words.

    Raises:
        HeftError: it cannot be read, or has something that heft cannot keep exactly; nothing is written.
    """
    require_new_folder(out)
    folder = Path(os.path.expanduser(given))
    if any(is_file(each / "heft.json") for each in (folder, folder / "adapter")):
        raise HeftError(f"{given} is a run or an adapter directory of heft already; every command takes it as it is")
    if is_pyreft(folder):
        found = read_pyreft(folder, positions, activation)
        values, words = {"method": "reft", **found.settings}, "pyreft's"
    else:
        _require_of_pyreft(given, positions=positions, activation=activation)
        found, source = None, find_source(given, "lora")
        base = base or source.base_name
        values, words = {"method": "lora", "from": given}, "PEFT's"
    if base is None:
        raise HeftError(f"{given} does not say which base model it was trained on: give it with --base")
    recipe = _recipe(stage or ("fine" if found else "coarse"), values, base, task, overrides, out)
    loaded = load_base(recipe.model)
    name = next(iter(recipe.stages))
    if found is None:
        check_sources(loaded.model, recipe, loaded.fingerprint, warn)
        take_as_it_is(loaded.model, name, recipe.stages[name])
    else:
        for note in found.notes:
            warn(note)
        _attach_pyreft(loaded, name, recipe, found)
    with in_turn(out):
        require_new_folder(out)
        save(out, loaded.model, adapter_manifest(recipe, loaded))
    require_readable(out, loaded.model)
    return f"{name}: {words} {_in_words(recipe, name, loaded)}"


def _recipe(
    stage: str, values: dict[str, Any], base: str, task: str | None, overrides: Sequence[str], out: Path
) -> Recipe:
    """A recipe of one stage that stands for what is imported: it gives the manifest its settings."""
    given = {"task": dict(FREE_PROMPTS) if task is None else {"name": task}, "model": {"name": base}}
    request = evaluation_request(given, overrides, "heft import")
    try:
        return Recipe.model_validate(
            {
                "name": "imported",
                "model": request.model.model_dump(),
                "task": request.task.model_dump(),
                "evaluation": request.evaluation.model_dump(),
                "stages": {stage: values},
                "output": str(out),
            }
        )
    except ValidationError as error:
        raise HeftError(f"heft import: {in_one_line(faults_of(error, Recipe))}") from None


@torch.no_grad()
def _attach_pyreft(base: Base, name: str, recipe: Recipe, found: PyreftAdapter) -> None:
    """Attach an adapter of pyreft's settings and give it pyreft's weights."""
    size = base.model.config.get_text_config().hidden_size
    if found.hidden_size != size:
        raise HeftError(
            f"its interventions are for hidden states of {found.hidden_size}, and {recipe.model.name} has {size}: give"
            " the base that it was trained on with --base"
        )
    attached = attach(base.model, name, recipe.stages[name], base.tokenizer)
    layers = dict(zip(found.settings["layers"], _in_order(base, found), strict=True))
    for (number, group), unit in found.units.items():
        own = getattr(layers[number], f"reft_{group}")[name]
        for key, value in unit.items():
            getattr(own, key).copy_(value)
    finish(base.model, attached)


def _in_order(base: Base, found: PyreftAdapter) -> list:
    """The layers of the adapter, by the number of their block."""
    from heft.reft.sites import site_names

    names = site_names(base.model, found.settings["layers"], found.settings["site"])
    by_name = layers_of(base.model)
    return [by_name[f"{name}.reft"] for name in names]


def _require_of_pyreft(given: str, **options: str | None) -> None:
    set_here = [f"--{key}" for key, value in options.items() if value is not None]
    if set_here:
        raise HeftError(f"{', '.join(set_here)} goes with a directory of pyreft's, and {given} is none")


def _in_words(recipe: Recipe, name: str, base: Base) -> str:
    stage = recipe.stages[name]
    if stage.method == "lora":
        where = local_folder(recipe.model.name) or recipe.model.name
        return f"LoRA on {where}"
    positions = parse_positions(stage.positions).in_words()
    return f"{stage.intervention} of rank {stage.rank} at {len(stage.layers)} {stage.site} outputs, {positions}"
