"""A process on some node that trains trials of a search. Nothing slow is imported before its environment is set."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from heft import __version__
from heft.cluster.environment import environment_to_send, take_environment
from heft.cluster.nodes import Need
from heft.errors import HeftError
from heft.recipe.files import recipe_of_values, recipe_values
from heft.tasks.own import allow_import_from, folders_of_imports


@dataclass(frozen=True)
class Bringing:
    """What such a process gets, as plain values.

    Attributes:
        recipe: of the search, resolved.
        holdout: share of the validation rows.
        lacks: tokens from a prompt's end that the base's prefixes lack; None where none are kept.
        model: its settings, `auto` resolved.
        same: what has to be there as it is where the search runs, by name.
        environment, folders, working: as in `heft.cluster.worker.Order`.
        threads, gpus: likewise.
    """

    recipe: dict[str, Any]
    holdout: float
    lacks: int | None
    model: dict[str, Any]
    same: Mapping[str, str]
    environment: Mapping[str, str]
    folders: tuple[Any, ...]
    working: str
    threads: int
    gpus: float


def bringing_for(bench: Any, need: Need) -> Bringing:
    """What a process gets to train trials as this bench does (heft.tune.bench)."""
    base = bench.base
    return Bringing(
        recipe=recipe_values(bench.recipe),
        holdout=bench.holdout,
        lacks=None if bench.prefixes is None else bench.prefixes.base.lacks,
        model=base.settings.model_dump(mode="json"),
        same=identity_of(base),
        environment=environment_to_send(),
        folders=tuple(folders_of_imports()),
        working=os.getcwd(),
        threads=need.cpus,
        gpus=need.gpus,
    )


def identity_of(base: Any) -> dict[str, str]:
    """What makes trials come out alike."""
    from importlib.metadata import version

    libraries = {name: version(name) for name in ("torch", "transformers", "peft")}
    return {"heft": __version__, **libraries, "device": base.model.device.type, "base model": base.fingerprint}


def require_same(base: Any, there: Mapping[str, str]) -> None:
    """Require that trials here come out as where the search runs; `there` is its `identity_of`.

    Raises:
        HeftError: something differs.
    """
    other = [f"{name} {own}, not {there[name]}" for name, own in identity_of(base).items() if own != there[name]]
    if other:
        raise HeftError(
            f"{socket.gethostname()} has {'; '.join(other)}, as it is where the search runs, so its trials would come"
            " out otherwise; start the search on a node like those that do its trials"
        )


class Member:
    """Trains trials on a model of its own.

    Args:
        bringing: see there.
        rows: a list with the reference of all training rows, which are taken only once the environment is set.
    """

    def __init__(self, bringing: Bringing, rows: list[Any]):
        self._bringing, self._rows = bringing, rows
        self._bench: Any = None
        take_environment(bringing.environment, bringing.gpus)

    def work(self, piece: list[Any]) -> tuple[list[Any], list[dict], dict[str, dict[str, Any]]]:
        """Train a piece (heft.tune.trainers.Piece, in a list likewise); its outcomes, what is logged of it, and the
        trained weights where it keeps them, by key.

        Raises:
            HeftError: this node differs from the one where the search runs.
        """
        import ray

        bench = self._bench = self._bench or self._made()
        (piece,) = ray.get(list(piece))
        bench.directory.logged.clear()
        bench.weights.kept.clear()
        outcomes = bench.train_on_top(piece.before, piece.name, piece.stages, piece.values, piece.keeps)
        return outcomes, list(bench.directory.logged), dict(bench.weights.kept)

    def _made(self) -> Any:
        with suppress(OSError):
            os.chdir(self._bringing.working)
        import ray
        import torch

        from heft.models.load import load_base, quiet
        from heft.recipe.model import ModelSettings
        from heft.runtime.reporter import Reporter
        from heft.tune.bench import Bench
        from heft.tune.kept import keep_prefixes
        from heft.tune.logged import Kept
        from heft.tune.prices import Counter
        from heft.tune.space import settings_of
        from heft.tune.weights import WeightsInMemory

        quiet()
        torch.set_num_threads(self._bringing.threads)
        allow_import_from(*self._bringing.folders)
        recipe = recipe_of_values(self._bringing.recipe)
        base = load_base(ModelSettings.model_validate(self._bringing.model))
        require_same(base, self._bringing.same)
        ((rows,),) = ray.get(self._rows)
        most = settings_of(recipe).tokens_per_pass
        lacks, pad_id = self._bringing.lacks, base.tokenizer.pad_token_id
        prefixes = None if lacks is None else keep_prefixes(base.model, rows, lacks, pad_id)
        counter = Counter(recipe, rows, most, keeps_prefixes=lacks is not None)
        weights = WeightsInMemory()
        return Bench(recipe, base, rows, self._bringing.holdout, counter, Kept(), Reporter(), most, weights, prefixes)
