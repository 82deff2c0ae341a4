"""Trackers by name: a run's news, passed on to TensorBoard, trackio, Weights & Biases or MLflow by way of accelerate.

What is logged: the recipe as configuration; loss, learning rate, gradient norm and validation loss as `coarse/loss` and
so on; the figures of each evaluation as `evaluation/accuracy` and so on. Steps go on from stage to stage. Where each
tracker writes, and to whom it sends, is set as its own documents say, mostly in the environment.
"""

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from heft.errors import HeftError
from heft.recipe.recipe import Recipe
from heft.results.records import Record
from heft.results.summary import StageSummary
from heft.runtime.reporter import Reporter
from heft.storage.atomic import to_json, write_text
from heft.storage.reading import is_file, read_json

FOLDER = "trackers"
"""In the run directory: which runs these are to the trackers, and TensorBoard's events."""
_PROJECT = "heft"
_FIGURES = ("accuracy", "balanced_accuracy", "majority", "seconds", "evaluation_seconds", "trainable_parameters")


def require_trackers(recipe: Recipe) -> None:
    """Require the package of each tracker that a recipe names; none is imported.

    Raises:
        HeftError: some are missing; the command that installs them is given.
    """
    missing = [name for name in recipe.trackers if not _is_installed(name)]
    if missing:
        raise HeftError(
            f"trackers: {', '.join(missing)} not installed: pip install {' '.join(missing)} (or remove from trackers)"
        )


def _is_installed(name: str) -> bool:
    return find_spec(name) is not None


@dataclass
class Trackers(Reporter):
    """Passes a run's news on to the trackers that its recipe names.

    One that fails in the middle of a run is left out from then on, with a warning: a network that is away costs no
    training.

    Attributes:
        recipe: of the run.
        directory: of the run; it need not be there before the first news.
        warn_to: hears of a tracker that failed.
        offset: steps of the stages before the one that trains.
        is_resumed: whether the run was begun before; then trackers go on with what they have, as far as they can.
    """

    recipe: Recipe
    directory: Path
    warn_to: Reporter
    offset: int = 0
    is_resumed: bool = False
    _running: dict[str, Any] = field(default_factory=dict)
    _purge_from: int | None = None
    _is_complete: bool = False

    def __post_init__(self):
        file = self.directory / FOLDER / "ids.json"
        there = read_json(file) if self.is_resumed and is_file(file) else {}
        fresh = f"{self.recipe.name}-{secrets.token_hex(4)}"
        self.ids = {name: str(there.get(name, fresh)) for name in self.recipe.trackers}
        self._known = set(there)

    def start(self) -> None:
        """Start the trackers that write elsewhere than into the run directory, before anything is written there.

        Raises:
            HeftError: one cannot be started, as when nobody is logged in.
        """
        for name in self.recipe.trackers:
            if name != "tensorboard":
                self._start(name)

    def metrics(self, values: dict) -> None:
        """Log what was measured in a step, under the stage's or the configuration's name."""
        where = values.get("configuration", values.get("stage"))
        numbers = {
            f"{where}/{key}": value
            for key, value in values.items()
            if key not in ("stage", "configuration", "step") and isinstance(value, int | float)
        }
        step = self.offset + values["step"]
        self._log(numbers, step, comes_again=step)

    def evaluated(self, summary: StageSummary, records: Sequence[Record]) -> None:
        """Log the figures of an evaluation at the last step of its stage."""
        self.offset += summary.steps
        found = {key: getattr(summary, key) for key in _FIGURES} | dict(
            zip(("interval_low", "interval_high"), summary.interval, strict=True)
        )
        figures = {f"evaluation/{key}": value for key, value in found.items() if value is not None}
        self._log(figures, self.offset, comes_again=self.offset + 1)

    def finish(self) -> None:
        """Bring everything to where it belongs."""
        for name in list(self._running):
            self._guarded(name, lambda tracker: tracker.finish())
        self._running.clear()

    def _log(self, values: dict[str, float], step: int, comes_again: int) -> None:
        """Log values; of a run that is resumed with them, what was logged from the step `comes_again` on is void."""
        if not self.recipe.trackers:
            return
        if not self._is_complete:
            self._is_complete = True
            self._purge_from = comes_again if self.is_resumed else None
            if "tensorboard" in self.recipe.trackers:
                self._start("tensorboard")
            (self.directory / FOLDER).mkdir(parents=True, exist_ok=True)
            write_text(self.directory / FOLDER / "ids.json", to_json(self.ids))
        for name in list(self._running):
            self._guarded(name, lambda tracker: tracker.log(values, step=step))

    def _start(self, name: str) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # which accelerate's logging asks for
        place, options = self._options(name)
        try:
            tracker = LOGGER_TYPE_TO_CLASS[name](place, **options)
            tracker.start()
            if name == "mlflow":
                self.ids[name] = tracker.tracker.info.run_id
            if name not in self._known:
                tracker.store_init_configuration(flat_config(self.recipe))
        except Exception as error:  # each library raises what it likes
            raise HeftError(f"tracker {name} cannot be started: {type(error).__name__}: {error}") from error
        self._running[name] = tracker

    def _options(self, name: str) -> tuple[str, dict[str, Any]]:
        """The first argument of accelerate's tracker, and the others."""
        own, goes_on = self.ids[name], name in self._known
        if name == "tensorboard":
            return name, {"logging_dir": str(self.directory / FOLDER), "purge_step": self._purge_from}
        if name == "wandb":
            return _PROJECT, {"name": self.recipe.name, "id": own, "resume": "allow"}
        if name == "trackio":
            return _PROJECT, {"name": own, "resume": "allow"}
        return _PROJECT, {"run_id": own} if goes_on else {"run_name": own}

    def _guarded(self, name: str, work) -> None:
        try:
            work(self._running[name])
        except Exception as error:
            del self._running[name]
            self.warn_to.warn(
                f"tracker {name} failed and hears nothing more of this run ({type(error).__name__}: {error})"
            )


@contextmanager
def tracking(trackers: Trackers) -> Iterator[Trackers]:
    """Started, and finished however the run ends."""
    try:
        trackers.start()
        yield trackers
    finally:
        trackers.finish()


def flat_config(recipe: Recipe) -> dict[str, bool | int | float | str]:
    """A recipe as `stages.fine.rank` → 8, lists and null as JSON text: what every tracker takes."""

    def flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for key, part in value.items():
                yield from flat(part, f"{path}.{key}" if path else key)
        else:
            yield path, value if isinstance(value, bool | int | float | str) else json.dumps(value)

    return dict(flat(recipe.model_dump(mode="json"), ""))
