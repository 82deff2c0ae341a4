"""What can be asked for by name: the base model, and for each adapter directory the model after each of its stages."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftConfig

from heft.adapters.attach import DOES_NOT_FIT, adapter_parameters
from heft.adapters.detach import detach
from heft.adapters.directory import attach_saved
from heft.adapters.manifest import AdapterManifest, read_manifest
from heft.adapters.places import adapter_directory, own_name
from heft.adapters.safety import adapter_folder
from heft.data.encode import UNCUT, Encoder
from heft.data.padding import padding_matters
from heft.edits.positions import Positions
from heft.errors import HeftError
from heft.evaluation.finite import has_full_rank
from heft.models.chat import ChatTemplate
from heft.models.endings import end_tokens
from heft.models.fingerprints import tokenizer_fingerprint
from heft.models.limits import limits_of
from heft.models.load import Base
from heft.models.prefix_states import keeps_plain_keys
from heft.recipe.files import evaluation_request
from heft.recipe.recipe import EvaluationSettings
from heft.reft.layer import layers_of
from heft.reft.tracker import ForwardTracker, tracker_of
from heft.serving.apart import ALL_TOKENS, Switch, has_trained_tokens, stand_apart, why_alone
from heft.tasks import Task, task_for

BASE_NUMBER = -1
"""The number of tokens that no adapter acts on."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,99}")


@dataclass(frozen=True)
class Served:
    """What a request names as its `model`.

    Attributes:
        name: `NAME` for all stages of a directory, `NAME:STAGE` for those up to one of them; of the base, its own.
        number: of its tokens in a pass.
        adapters: names on the model, in order.
        positions: what each of them acts on.
        ends: tokens that end a generated text.
        directory: of the adapters; None for the base.
        task: that they were trained on; None where it is none that is known here.
        evaluation: how choices are scored.
        encode: of the task's rows; None without a task.
        chat: how messages become a prompt.
        alone: why its requests are not mixed with others', in words; None where they are.
    """

    name: str
    number: int = BASE_NUMBER
    adapters: tuple[str, ...] = ()
    positions: tuple[Positions, ...] = ()
    ends: tuple[int, ...] = ()
    directory: Path | None = None
    task: Task | None = None
    evaluation: EvaluationSettings = EvaluationSettings()
    encode: Encoder | None = None
    chat: Encoder | None = None
    alone: str | None = None

    @property
    def tail(self) -> int:
        """Tokens before a prompt's end that are acted on because it ends there; a shared prefix ends before them."""
        return max((each.protected_tail() for each in self.positions), default=0)

    @property
    def reaching(self) -> tuple[str, ...]:
        """The adapters that act on tokens before the tail: prompts share a prefix where these are the same."""
        pairs = zip(self.adapters, self.positions, strict=True)
        return tuple(name for name, each in pairs if each.all_tokens or each.first)


class Catalog:
    """The base model with all adapters that are served, attached side by side. Not to be used from several threads.

    Args:
        base: as loaded, with nothing attached. It is the catalog's from now on.
        mixes: whether requests for different adapters share forward passes; False gives each its own.

    Raises:
        HeftError: the model does not keep plain keys and values, so that texts cannot join and leave a batch.
    """

    def __init__(self, base: Base, mixes: bool = True):
        self.base, self.model, self.tokenizer, self._mixes = base, base.model, base.tokenizer, mixes
        if not keeps_plain_keys(self.model):
            raise HeftError(
                f"{type(self.model).__name__} keeps something else than one key and value for each token (a recurrent"
                " state, scaled positions), so texts cannot join and leave its batches: use `heft generate` and `heft"
                " predict` with this model"
            )
        self.limits = limits_of(self.model)
        self.each_alone = padding_matters(self.model, self.tokenizer.pad_token_id, 2)
        self.tracker = ForwardTracker.on(self.model)
        self.tracker.keeps_rotations = True
        self.switch = Switch(self.model)
        ends = tuple(end_tokens(self.tokenizer, self.model.generation_config))
        plain = Served(base.settings.name, ends=ends, chat=Encoder(self.tokenizer, UNCUT, chat_template=True))
        self.served: dict[str, Served] = {base.settings.name: plain}
        self._attached: dict[str, tuple[str, ...]] = {}
        self._serial, self._numbers = itertools.count(), itertools.count()

    @property
    def plain(self) -> Served:
        """The base model."""
        return self.served[self.base.settings.name]

    def find(self, name: str) -> Served | None:
        """What a request names; None where nothing has that name."""
        return self.served.get(name)

    @property
    def names(self) -> list[str]:
        """Of the directories that are loaded."""
        return list(self._attached)

    def adapters_of(self, served: Sequence[Served]) -> tuple[str, ...]:
        """The adapters that a pass of these needs, in the order in which they were attached."""
        names = {name for each in served for name in each.adapters}
        return tuple(name for name in getattr(self.model, "peft_config", ()) if name in names) if names else ()

    def load(self, given: str | Path, name: str | None = None) -> list[Served]:
        """Attach the adapters of a run or an adapter directory; what is served already stays as it is.

        Args:
            given: the directory.
            name: to ask for it by; None for the run's own.

        Raises:
            HeftError: it cannot be read, was trained on another base model or tokenizer, or the name is taken.
        """
        directory = adapter_directory(given)
        name = own_name(directory) if name is None else name
        self._require_free(name)
        manifest = read_manifest(directory)
        self._require_base(directory, manifest)
        serial, attached = next(self._serial), {}
        try:
            for entry in manifest.adapters:
                attached[entry.name] = f"served{serial}_{entry.name}"
                attach_saved(self.model, adapter_folder(directory, entry.name), attached[entry.name])
            self._require_sound(directory, attached)
        except (HeftError, *DOES_NOT_FIT):
            self._detach([each for each in attached.values() if each in getattr(self.model, "peft_config", {})])
            raise
        added = self._entries(name, directory, manifest, attached)
        self._attached[name] = tuple(attached.values())
        self._renumber({**self.served, **{each.name: each for each in added}})
        return added

    def served_of(self, name: str) -> list[Served]:
        """What is served of a directory; nothing where none of that name is loaded."""
        own = set(self._attached.get(name, ()))
        return [each for each in self.served.values() if own & set(each.adapters)]

    def require_unloadable(self, name: str) -> None:
        """Check that a directory's adapters can be taken off.

        Raises:
            HeftError: none of that name is loaded, or it cannot be taken off a model that goes on.
        """
        if name not in self._attached:
            raise HeftError(
                f"no adapter directory is loaded as {name!r}; loaded: {', '.join(self._attached) or 'none'}"
            )
        if has_trained_tokens(self.model, self._attached[name]):
            raise HeftError(
                f"{name} has embeddings of tokens of its own, which PEFT cannot take off; restart without it"
            )

    def unload(self, name: str) -> None:
        """Take a directory's adapters off.

        Raises:
            HeftError: as `require_unloadable`.
        """
        self.require_unloadable(name)
        names = self._attached.pop(name)
        self._detach(names)
        self._renumber({key: each for key, each in self.served.items() if not set(each.adapters) & set(names)})

    def _entries(self, name: str, directory: Path, manifest: AdapterManifest, attached: dict[str, str]) -> list[Served]:
        """All stages under the name, and the stages up to each but the last under `NAME:STAGE`."""
        alone = why_alone(self.model, list(attached.values())) if self._mixes else "mixing is switched off"
        if alone is None:
            stand_apart(self.model, self.tracker, list(attached.values()))
        stages = list(dict.fromkeys(entry.stage for entry in manifest.adapters))
        trained = _as_trained(directory, manifest, self.tokenizer)
        found = []
        for stage in reversed(stages):
            until = stages[: stages.index(stage) + 1]
            names = tuple(attached[entry.name] for entry in manifest.adapters if entry.stage in until)
            positions = tuple(_positions_of(self.model.peft_config[each]) for each in names)
            values = dict(trained)
            if values.get("task") is not None:
                values["encode"] = Encoder.of(self.tokenizer, values["task"].settings, positions)
            ends = tuple(end_tokens(self.tokenizer, self.model.generation_config, values.pop("answer_end")))
            full = name if stage == stages[-1] else f"{name}:{stage}"
            found.append(Served(full, next(self._numbers), names, positions, ends, directory, alone=alone, **values))
        return found

    def _renumber(self, served: dict[str, Served]) -> None:
        index: dict[str, tuple[int, ...]] = {}
        for each in served.values():
            for adapter in each.adapters if each.alone is None else ():
                index[adapter] = (*index.get(adapter, ()), each.number)
        self.tracker.adapter_index = index
        self.tracker.forget_rotations()
        self.model.requires_grad_(False).eval()
        self.switch.refresh()
        self.served = served

    def _detach(self, names: Sequence[str]) -> None:
        if names:
            detach(self.model, names)
        if tracker_of(self.model) is None:  # the last adapter with positions took it off
            self.tracker.attach(self.model)
        self.tracker.forget_rotations()
        self.switch.refresh()

    def _require_sound(self, directory: Path, attached: dict[str, str]) -> None:
        """Require that no adapter could spoil the passes that it shares with others."""
        for entry, name in attached.items():
            if not all(bool(p.isfinite().all()) for p in adapter_parameters(self.model, [name]).values()):
                raise HeftError(f"the adapter {entry!r} in {directory} has weights that are NaN or infinite")
            units = [unit for layer in layers_of(self.model).values() for own, unit in layer.units() if own == name]
            if not all(unit.rotation is None or has_full_rank(unit.raw_rows()) for unit in units):
                raise HeftError(f"the adapter {entry!r} in {directory} has a rotation of less than full rank")

    def _require_free(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise HeftError(
                f"{name[:80]!r} cannot be a name to ask for: give letters, digits, '.', '_' and '-', beginning with a"
                " letter or digit, at most 100 (NAME=DIR on the command line)"
            )
        if name in self.served or name in self._attached or self.plain.name.startswith(f"{name}:"):
            raise HeftError(f"{name!r} is served already; give another name (NAME=DIR on the command line)")

    def _require_base(self, directory: Path, manifest: AdapterManifest) -> None:
        if manifest.base_fingerprint != self.base.fingerprint:
            raise HeftError(
                f"the adapters in {directory} were trained on {manifest.model.name} with fingerprint"
                f" {manifest.base_fingerprint}, and {self.base.settings.name} is served, with {self.base.fingerprint}:"
                " one server has one base model, so start another for these"
            )
        found = tokenizer_fingerprint(self.tokenizer, manifest.task.get("chat_template") is True)
        if manifest.tokenizer_fingerprint not in (None, found):
            raise HeftError(f"the adapters in {directory} were trained with another tokenizer than the one served")


def _positions_of(config: PeftConfig) -> Positions:
    """What an adapter acts on; plain LoRA on all tokens."""
    return getattr(config, "edited_positions", None) or ALL_TOKENS


def _as_trained(directory: Path, manifest: AdapterManifest, tokenizer: object) -> dict:
    """Fields of `Served` that follow from how the adapters were trained, and the token that ended their answers."""
    values = {"task": dict(manifest.task), "evaluation": dict(manifest.evaluation)}
    answer_end = None
    if manifest.task.get("chat_template") is True and getattr(tokenizer, "chat_template", None):
        answer_end = ChatTemplate(tokenizer).end
    try:
        request = evaluation_request(values, where=str(directory / "heft.json"))
    except HeftError:  # a task of one's own that is not known here
        chat = Encoder(tokenizer, UNCUT, chat_template=True)
        return {"chat": chat, "answer_end": answer_end}
    task = request.task
    chat = Encoder(tokenizer, UNCUT, True, (), task.chat_template_args, task.template_date)
    return {"task": task_for(task), "evaluation": request.evaluation, "chat": chat, "answer_end": answer_end}
