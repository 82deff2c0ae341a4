"""What stands in the files against what the model holds, to the bit; and saved again."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from heft.adapters.attach import adapter_parameters
from heft.adapters.directory import adapter_tensors, save_adapter
from heft.adapters.safety import adapter_paths
from heft.storage.reading import read_json
from heft.text.listing import first_of
from heft.verify.finding import FAILED, Finding, judged, most
from heft.verify.subject import AdapterUnderTest

_WHY = "a copy is exact"
_NAMED = 3


def check_loaded(subject: AdapterUnderTest) -> list[Finding]:
    """Every tensor of every folder against the loaded model's, number by number and bit by bit."""
    pairs, faults = [], []
    for name in subject.model.peft_config:
        saved = load_file(adapter_paths(subject.directory / name)[1])
        held = {key: value.detach().cpu() for key, value in adapter_tensors(subject.model, name).items()}
        faults += [f"{name}/{key} is on one side only" for key in saved.keys() ^ held.keys()]
        pairs += [(f"{name}/{key}", saved[key], held[key]) for key in saved.keys() & held.keys()]
        stored = sum(value.numel() for value in saved.values())
        carried = sum(value.numel() for value in adapter_parameters(subject.model, [name]).values())
        if stored != carried:
            faults.append(f"the file of {name} stores {stored:,} parameters and the model has {carried:,} for it")
    compared = "every tensor in the adapters' files against the one that the loaded model computes with"
    return [_compared("saved against loaded", compared, pairs, faults)]


def check_saved_again(subject: AdapterUnderTest) -> list[Finding]:
    """The loaded adapters written to a temporary folder: tensors and settings against the directory's own."""
    pairs, faults = [], []
    with tempfile.TemporaryDirectory(prefix="heft-verify-") as scratch:
        for name in subject.model.peft_config:
            folder = Path(scratch) / name
            save_adapter(folder, subject.model, name)
            first, second = (load_file(adapter_paths(f)[1]) for f in (subject.directory / name, folder))
            faults += [f"{name}/{key} is on one side only" for key in first.keys() ^ second.keys()]
            pairs += [(f"{name}/{key}", first[key], second[key]) for key in sorted(first.keys() & second.keys())]
            faults += _unlike_settings(subject.directory / name, folder, name)
    compared = "the loaded adapters, written to a temporary folder, against the directory's tensors and settings"
    return [_compared("saved again", compared, pairs, faults)]


def _unlike_settings(first: Path, second: Path, name: str) -> list[str]:
    """Fields of the two adapter_config.json that differ: lists of names are sets, PEFT's version may be another."""
    before, after = (read_json(adapter_paths(folder)[0]) for folder in (first, second))

    def plain(value):
        return sorted(value) if isinstance(value, list) and all(isinstance(v, str) for v in value) else value

    fields = (before.keys() & after.keys()) - {"peft_version"}
    unlike = sorted(key for key in fields if plain(before[key]) != plain(after[key]))
    return [f"{name}: {key} is {before[key]!r} in the file and {after[key]!r} saved again" for key in unlike]


def _compared(check: str, compared: str, pairs: list, faults: list[str]) -> Finding:
    """A finding over (name, first, second) tensors; `faults` fail it whatever the numbers say."""
    difference, unequal = 0.0, []
    for key, first, second in pairs:
        if first.shape != second.shape or first.dtype != second.dtype:
            faults.append(f"{key} is {_kind(first)} on one side and {_kind(second)} on the other")
            continue
        if not bool(torch.isfinite(first).all()):
            faults.append(f"{key} holds numbers that are not finite")
        if first.numel() and not torch.equal(_bits(first), _bits(second)):
            unequal.append(key)
            difference = most((difference, (first.double() - second.double()).abs().max().item()))
    if unequal:
        faults.append(f"not equal to the bit: {first_of(unequal, _NAMED)}")
    if faults:
        compared = f"{compared}: {first_of(reversed(faults), _NAMED, '; ')}"
    finding = judged(
        check, compared, "numbers", difference, 0.0, _WHY, differ=len(unequal), of=len(pairs), things="tensors"
    )
    return replace(finding, state=FAILED) if faults else finding


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
