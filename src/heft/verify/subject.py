"""What is verified: an adapter directory, its base model, and the rows that both are probed with."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.attach import activated
from heft.adapters.directory import open_adapters
from heft.adapters.manifest import AdapterManifest, base_settings, read_manifest
from heft.adapters.places import adapter_directory
from heft.data.encode import EncodedExample, Encoder
from heft.edits.positions import Positions
from heft.errors import HeftError
from heft.evaluation.finite import explain_singular_rotation
from heft.models.load import Base, load_base, without_weights
from heft.recipe.files import evaluation_request
from heft.reft.tracker import positions_of
from heft.tasks import load_examples
from heft.tasks.base import TaskSettings
from heft.tasks.whereabouts import WhereaboutsSettings
from heft.verify.finding import Finding
from heft.verify.logits import (
    Rounding,
    apart,
    changed_predictions,
    judged_logits,
    largest,
    logits_in_plain_peft,
    rounding_of,
    row_logits,
)

LOOKED_AT = 64
"""Rows of the task that are looked at; short ones of them are the probe, so that it is quick."""
STRETCH = 1.5
"""The longest row of the probe over the shortest, where there are enough rows."""
STEP = 2
"""Tokens by which rows of one length are made unlike."""
TIMES = 3
"""Of what the base alone shows in a comparison, where that is more than rounding mostly does."""


@dataclass(frozen=True)
class Probe:
    """Rows to compare on, shortest first, and where they come from, in words."""

    rows: list[EncodedExample]
    source: str

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, prompt and answer."""
        return [row.length for row in self.rows]


@dataclass(frozen=True)
class AdapterUnderTest:
    """An adapter directory, loaded.

    Attributes:
        directory: where it is.
        manifest: what its heft.json says.
        model: the base with all adapters, frozen and active, in evaluation mode.
        tokenizer: of the base.
        probe: the rows.
        base_logits: of the probe, from the base before anything was attached; (B, K, V) like the others.
        peft_logits: likewise, with one LoRA folder loaded by PEFT alone, by adapter; the error where that failed.
        logits: likewise, with all adapters.
        noise: largest difference of `logits` and those of a second, equal pass.
        rounding: the tolerances.
    """

    directory: Path
    manifest: AdapterManifest
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    probe: Probe
    base_logits: torch.Tensor
    peft_logits: dict[str, torch.Tensor | Exception]
    logits: torch.Tensor
    noise: float
    rounding: Rounding

    @property
    def pad_id(self) -> int:
        """Id of the padding token."""
        return self.tokenizer.pad_token_id

    @property
    def effect(self) -> float:
        """By how much the adapters together change the logits, at most."""
        return largest(self.logits, self.base_logits)

    @property
    def changed(self) -> int:
        """How many of the probe's predictions the adapters change."""
        return changed_predictions(self.logits, self.base_logits)

    def names(self, method: str) -> list[str]:
        """The adapters of a method, "lora" or "reft"."""
        return [entry.name for entry in self.manifest.adapters if entry.method == method]

    def logits_now(self) -> torch.Tensor:
        """Logits (B, K, V) of the probe, one batch padded on the left, with the model as it is now."""
        return row_logits(self.model, self.probe.rows, self.pad_id)

    def compared(
        self, check: str, compared: str, first: torch.Tensor, second: torch.Tensor, base: float = 0.0
    ) -> Finding:
        """A finding on two sets of logits (B, K, V) that may differ by rounding; `base` as for `bound`."""
        difference = apart(self.model, first, second)
        return judged_logits(check, compared, first, second, *self.bound(base), difference=difference)

    def bound(self, base: float) -> tuple[float, str]:
        """The tolerance of logits, and why it is that.

        Args:
            base: by how much the logits of the base alone, which nothing of heft has a part in, differ in the same
                comparison: deep models in bfloat16 and models in 8 bits may round more than others do.
        """
        if TIMES * base > self.rounding.logits:
            return TIMES * base, f"{TIMES} times what the base alone shows, {base:.3g}"
        return self.rounding.logits, self.rounding.why

    def logits_with(self, names: Sequence[str]) -> torch.Tensor:
        """As `logits_now`, with just these adapters on."""
        with activated(self.model, names):
            return self.logits_now()


def open_subject(
    directory: Path,
    rows: int = 4,
    device: str | None = None,
    trust_remote_code: bool = False,
    base_name: str | None = None,
) -> AdapterUnderTest:
    """Load what is to be verified; arguments as for `heft.verify.verify`.

    Raises:
        HeftError: the directory, the base or the device is not as it should be, or an edit cannot be computed.
    """
    if rows < 2:
        raise HeftError(f"rows is {rows}; a batch to be compared with single rows needs at least 2")
    directory = adapter_directory(directory)
    manifest = read_manifest(directory)
    settings = base_settings(directory, manifest, trust_remote_code, base_name)
    base = load_base(settings if device is None else settings.model_copy(update={"device": device}))
    positions = _read_on_a_skeleton(directory, base)
    probe = make_probe(base.tokenizer, manifest, positions, rows)
    pad_id = base.tokenizer.pad_token_id
    base_logits = row_logits(base.model, probe.rows, pad_id)
    loras = [entry.name for entry in manifest.adapters if entry.method == "lora"]
    peft_logits = {name: logits_in_plain_peft(base.model, directory / name, probe.rows, pad_id) for name in loras}
    model = open_adapters(directory, base).model
    with explain_singular_rotation(model):
        logits, again = (row_logits(model, probe.rows, pad_id) for _ in range(2))
    rounding = rounding_of(model, base.settings.quantization, torch.cat([base_logits, logits]))
    noise = largest(logits, again)
    return AdapterUnderTest(
        directory, manifest, model, base.tokenizer, probe, base_logits, peft_logits, logits, noise, rounding
    )


def _read_on_a_skeleton(directory: Path, base: Base) -> list[Positions]:
    """What the ReFT adapters edit; all faults of the directory are raised here.

    PEFT alone would do whatever the files say, so heft's own reader goes first, on a model without weights.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")  # there is nothing to copy to
        skeleton = without_weights(base.model)
        open_adapters(directory, Base(skeleton, base.tokenizer, base.settings, base.fingerprint))
    return positions_of(skeleton)


def make_probe(
    tokenizer: PreTrainedTokenizerBase, manifest: AdapterManifest, positions: Sequence[Positions], rows: int
) -> Probe:
    """Evaluation rows of the adapter's own task where they can be read, else made-up ones.

    Raises:
        HeftError: not even made-up prompts are long enough for the positions that are edited.
    """
    try:
        task = evaluation_request({"task": dict(manifest.task)}).task
        most = max(LOOKED_AT, rows)
        limit = min(most, task.eval_limit or most)
        chosen = _chosen(tokenizer, task.model_copy(update={"eval_limit": limit}), positions, rows)
        return Probe(chosen, f"rows of the adapter's own task, {task.name}")
    except HeftError as error:
        why = str(error).strip().splitlines()[0]
    chat = manifest.task.get("chat_template") is True and bool(getattr(tokenizer, "chat_template", None))
    longest = max((p.shortest_prompt() for p in positions), default=0)
    task = WhereaboutsSettings(
        moves=5 if longest < 24 else 40, eval_size=max(LOOKED_AT, rows), chat_template=chat, max_length=10_000
    )
    made_up = _chosen(tokenizer, task, positions, rows)
    return Probe(made_up, f"made-up rows, since the adapter's own cannot be read: {why}")


def _chosen(tokenizer, task: TaskSettings, positions: Sequence[Positions], rows: int) -> list[EncodedExample]:
    """Short rows, evenly spread from the shortest to `STRETCH` times its length, so that a batch has padding."""
    encoded = Encoder.of(tokenizer, task, positions)(load_examples(task, "eval"))
    if len(encoded) < 2:
        raise HeftError(f"{task.name} has {len(encoded)} row to compare on, and at least 2 are needed")
    encoded.sort(key=lambda row: row.length)
    short = [row for row in encoded if row.length <= STRETCH * encoded[0].length]
    short = short if len(short) >= rows else encoded[:rows]
    count = min(rows, len(short))
    spread = [short[round(i * (len(short) - 1) / (count - 1))] for i in range(count)]
    return _unlike(spread, max([1, *(p.shortest_prompt() for p in positions)]))


def _unlike(rows: list[EncodedExample], needed: int) -> list[EncodedExample]:
    """The rows, shortest first; where most are of one length, they lose first tokens, since equal rows pad nothing.

    `needed` tokens of each prompt stay.
    """
    if len({row.length for row in rows}) > len(rows) / 2:
        return rows
    cuts = [min(STEP * (len(rows) - 1 - i), len(row.prompt) - needed) for i, row in enumerate(rows)]
    return [replace(row, prompt=row.prompt[cut:]) for row, cut in zip(rows, cuts, strict=True)]
