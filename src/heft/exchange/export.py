"""`heft export`: an adapter directory in another library's format, whole and exact, or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from heft.errors import HeftError
from heft.exchange.refusals import merging_refusals, peft_refusals, pyreft_refusals
from heft.exchange.subject import Subject, subject_of
from heft.storage.targets import new_folder, require_new_folder

FORMATS = ("transformers", "peft", "pyreft")
DTYPES = ("float32", "bfloat16")
SCALINGS = ("use_rslora", "rank_pattern", "alpha_pattern")
"""Settings of LoRA's by which its scaling is not lora_alpha / r."""


@dataclass
class Exported:
    """What was written.

    Attributes:
        folder: where.
        format: of `FORMATS`.
        adapters: names of the adapters that are in it.
        beside: those of them that are beside a merged model.
        folded: those that are part of weights.
        difference: how far logits were from the adapted model's; None where files are copies.
        notes: what a person has to know of it.
    """

    folder: Path
    format: str
    adapters: list[str]
    beside: list[str] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    difference: float | None = None
    notes: list[str] = field(default_factory=list)


def export(
    given: str | Path,
    to: str,
    out: str | Path,
    stages: Sequence[str] = (),
    fold: bool = False,
    dtype: str | None = None,
    base: str | None = None,
    trust_remote_code: bool = False,
    device: str | None = None,
) -> Exported:
    """Write an adapter directory in another library's format to a new folder, which appears whole or not at all.

    Args:
        given: a run or its adapter directory.
        to: of `FORMATS`.
        out: the folder.
        stages: whose adapters are exported; empty for all (with `to="peft"` and without `fold`: all LoRA ones).
        fold: whether ReFT edits become part of the linear layers whose outputs they edit, where they are.
        dtype: "float32" or "bfloat16" of the merged weights; None for the one that was trained in.
        base: folder or Hub id of the base model, if it has moved since training.
        trust_remote_code: whether code that comes with the base model may run.
        device: "cpu", "cuda" or "mps", where weights are merged; None for the recipe's.

    Raises:
        HeftError: it cannot be read, or something of it has no exact form there: all reasons are given, and nothing
            is written.
    """
    if to not in FORMATS:
        raise HeftError(f"--to is {to!r}; expected one of {', '.join(FORMATS)}")
    if dtype not in (None, *DTYPES):
        raise HeftError(f"--dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    out = Path(out)
    require_new_folder(out)
    subject = subject_of(given, stages, base, trust_remote_code, dtype, device)
    write = {"transformers": _to_transformers, "peft": _to_peft, "pyreft": _to_pyreft}[to]
    return write(subject, out, fold, dtype)


def _to_transformers(subject: Subject, out: Path, fold: bool, dtype: str | None) -> Exported:
    _require_none(merging_refusals(subject), "transformers")
    from heft.exchange.to_transformers import merged, write_model

    loaded = subject.load()
    plan, difference = merged(subject, loaded, fold)
    notes = _of_rounding(loaded.model.dtype) if subject.loras or plan.folds else []
    notes += [f"not folded: {reason}" for reason in plan.reasons.values()]
    with new_folder(out) as partial:
        beside = write_model(partial, subject, loaded, out)
    return Exported(out, "transformers", list(subject.configs), beside, plan.folds, difference, notes)


def _to_peft(subject: Subject, out: Path, fold: bool, dtype: str | None) -> Exported:
    _require_no_dtype(dtype, "peft")
    folded = list(subject.refts) if fold else []
    combines = bool(folded) or len(subject.loras) > 1
    _require_none(peft_refusals(subject, combines, fold), "peft")
    from heft.exchange.to_peft import base_name, combined, write_as_it_is, write_combined

    notes = [
        f"left out: {name}, a ReFT adapter; logits are those of {', '.join(subject.loras)}"
        for name in subject.refts
        if not fold
    ]
    if any(config.use_dora or config.trainable_token_indices for config in subject.loras.values()):
        notes.append("it has DoRA or trainable tokens, which PEFT reads and others may not")
    scaled = {field for each in subject.loras.values() for field in SCALINGS if getattr(each, field)}
    if scaled and not combines:
        notes.append(
            f"it has {' and '.join(sorted(scaled))}, which PEFT reads; others may scale its update otherwise (vLLM has"
            " one scaling for all modules, llama.cpp none for rsLoRA)"
        )
    if subject.model.quantization:
        notes.append(f"it was trained on the base in {subject.model.quantization}; load the base so")
    named = base_name(subject)
    if named == str(Path(named).absolute()):
        notes.append(f"the base's name in it is a folder of this machine, {named}; --base ORG/NAME names another")
    difference = None
    if combines:
        only_lora = subject if fold else subject.without_reft()
        config, tensors, difference = combined(only_lora, only_lora.load())
        if config.lora_bias:
            notes.append("it has a bias (lora_bias), since the edits add a constant: PEFT reads it, vLLM does not")
    with new_folder(out) as partial:
        if combines:
            write_combined(partial, subject, config, tensors)
        else:
            write_as_it_is(partial, subject)
    return Exported(out, "peft", [*subject.loras, *folded], [], folded, difference, notes)


def _to_pyreft(subject: Subject, out: Path, fold: bool, dtype: str | None) -> Exported:
    if fold:
        raise HeftError("--fold goes with --to transformers and --to peft: pyreft's files hold edits, no weights")
    from heft.exchange.to_pyreft import let_old_transformers_read, write_interventions
    from heft.exchange.to_transformers import merged, write_merged
    from heft.models.load import load_skeleton

    _require_none(pyreft_refusals(subject, load_skeleton(subject.model).config.model_type), "pyreft")
    loaded = subject.load()
    notes, difference = _of_rounding(loaded.model.dtype) if subject.loras else [], None
    ((name, config),) = subject.refts.items()
    if subject.loras:
        _, difference = merged(subject, loaded, folds=False)
    with new_folder(out) as partial:
        write_interventions(partial, subject, loaded)
        if subject.loras:
            write_merged(partial / "model", loaded)
            let_old_transformers_read(partial / "model")
    share = "" if config.tied or len(config.edited_positions.groups(False)) < 2 else ", share_weights=False"
    notes.append(
        f"pyreft takes positions from its data module: position={str(config.edited_positions)!r}{share}. It shortens"
        " them in prompts of fewer than twice as many tokens"
    )
    return Exported(out, "pyreft", list(subject.configs), [], [], difference, notes)


def _require_none(reasons: Sequence[str], to: str) -> None:
    if reasons:
        shown = "".join(f"\n  {reason}" for reason in reasons)
        raise HeftError(f"cannot be exported exactly to {to}; nothing was written:{shown}")


def _require_no_dtype(dtype: str | None, to: str) -> None:
    if dtype is not None:
        raise HeftError(f"--dtype goes with formats that have a model's weights; an adapter in {to}'s is float32")


def _of_rounding(dtype: torch.dtype) -> list[str]:
    if dtype == torch.float32:
        return []
    short = str(dtype).removeprefix("torch.")
    return [f"merged weights are rounded to {short}, the base's own format; --dtype float32 keeps them whole"]
