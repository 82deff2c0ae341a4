"""Adapter directories of the tiny model for the tests of serving, made without training, and engines on them."""

import queue
from pathlib import Path
from types import SimpleNamespace

import torch

from heft.adapters.attach import adapter_parameters, attach
from heft.adapters.directory import save
from heft.adapters.manifest import AdapterEntry, AdapterManifest
from heft.evaluation.likelihood import plain_log_likelihoods
from heft.models.fingerprints import tokenizer_fingerprint
from heft.models.load import load_base
from heft.recipe.files import load_recipe
from heft.serving.catalog import Catalog
from heft.serving.engine import Engine
from heft.serving.limits import Limits
from heft.serving.requests import Failed, Finished, Generation, Piece, Scoring
from tiny_recipe import write_recipe

LORA = "coarse: {method: lora, rank: 4, epochs: 1}"
TAIL = "fine: {method: reft, rank: 4, positions: l3, epochs: 1}"


def make_run(folder: Path, name: str, stages: str, seed: int = 1, **options: str) -> Path:
    """`folder/name/adapter`, with weights far from their start, so that every stage changes the tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = load_recipe(write_recipe(folder, f"{{{stages}}}", file=f"{name}.yaml", **options))
    base, entries = load_base(recipe.model), []
    torch.manual_seed(seed)
    for stage_name, stage in recipe.stages.items():
        for adapter in attach(base.model, stage_name, stage, base.tokenizer).names:
            method = "lora" if type(base.model.peft_config[adapter]).__name__.endswith("LoraConfig") else "reft"
            entries.append(AdapterEntry(name=adapter, method=method, stage=stage_name))
    with torch.no_grad():
        for key, parameter in adapter_parameters(base.model, [entry.name for entry in entries]).items():
            if "rotation" not in key:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    manifest = AdapterManifest(
        format=1,
        heft_version="0",
        model=recipe.model,
        base_fingerprint=base.fingerprint,
        tokenizer_fingerprint=tokenizer_fingerprint(base.tokenizer, False),
        adapters=entries,
        task=recipe.task.model_dump(mode="json"),
        evaluation=recipe.evaluation.model_dump(mode="json"),
    )
    (folder / name).mkdir()
    save(folder / name / "adapter", base.model, manifest)
    return folder / name / "adapter"


def engine_of(*directories: Path, mixes: bool = True, fast: bool = True, note=lambda text: None, **limits) -> Engine:
    """An engine that runs, with these runs loaded."""
    from heft.adapters.manifest import read_manifest

    catalog = Catalog(load_base(read_manifest(directories[0]).model), mixes)
    for directory in directories:
        catalog.load(directory)
    return Engine(catalog, Limits(**limits), fast, note).start()


def outcomes(engine: Engine, work: list, seconds: float = 60) -> list[tuple[list, object]]:
    """Submit all at once; the pieces and the last event of each."""
    queues = []
    for each in work:
        each.tell = (events := queue.Queue()).put
        queues.append(events)
    engine.submit(work)
    found = []
    for events in queues:
        pieces = []
        while isinstance(event := events.get(timeout=seconds), Piece):
            pieces.append(event)
        found.append((pieces, event))
    return found


def generation(engine: Engine, name: str, prompt, max_tokens: int = 12, **options) -> Generation:
    """A greedy request that only its number of tokens ends."""
    served = engine.catalog.find(name)
    options = {"ignore_ends": True, **options}
    return Generation(served=served, prompt=tuple(prompt), max_tokens=max_tokens, **options)


def scoring(engine: Engine, name: str, prompt, continuations, **options) -> Scoring:
    """A request for log-likelihoods."""
    served = engine.catalog.find(name)
    return Scoring(served=served, prompt=tuple(prompt), continuations=continuations, **options)


def tokens_of(outcome) -> list[int]:
    """The tokens of a text."""
    pieces, last = outcome
    assert isinstance(last, Finished), last
    return [chosen.token for piece in pieces for chosen in piece.tokens]


def scores_of(outcome) -> list[float]:
    """ln p of each continuation."""
    _, last = outcome
    assert not isinstance(last, Failed), last
    return [sum(chosen.log_probability for chosen in score) for score in last.scores]


def scores_by_definition(model, prompts, choices) -> list[list[float]]:
    """ln p of each prompt's choices, one row at a time, nothing shared."""
    rows = [SimpleNamespace(id=str(n), group=None, prompt=prompt, choices=choices) for n, prompt in enumerate(prompts)]
    return plain_log_likelihoods(model, rows, 1, 0)
