"""`heft verify --url`: whether a running server gives what the run itself gives, alone and in mixed batches.

The run is loaded here by heft's own loader, and what the server answered is looked at token by token: greedy tokens are
the same where each is the likeliest here after those before it. Shapes: K places, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.attach import activated
from heft.adapters.directory import open_adapters
from heft.adapters.manifest import base_settings, read_manifest
from heft.adapters.places import adapter_directory, own_name
from heft.data.encode import EncodedExample
from heft.errors import HeftError
from heft.evaluation.likelihood import plain_log_likelihoods
from heft.models.forward import logits_of
from heft.models.load import load_base
from heft.serving.client import ServerClient
from heft.serving.remote import positions_in
from heft.verify.finding import Finding, broken_off, judged
from heft.verify.logits import Rounding, rounding_of, row_logits
from heft.verify.subject import make_probe

TOKENS = 16
"""Greedy tokens of each prompt that are compared."""


@dataclass(frozen=True)
class Compared:
    """A run and its base, loaded here, and where they are served.

    Attributes:
        directory: of the adapters.
        model, tokenizer: the base with all adapters.
        names: of the adapters that each served name has.
        rows: that both are asked.
        source: where rows are from, in words.
        rounding: what logits may differ by.
    """

    url: str
    directory: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    names: dict[str, tuple[str, ...]]
    rows: list[EncodedExample]
    source: str
    rounding: Rounding

    def heading(self) -> list[str]:
        """What is compared with what."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return [
            f"{self.directory}, {dtype} on {self.model.device.type}, against {self.url}: {', '.join(self.names)}",
            f"probe: {len(self.rows)} {self.source}",
        ]


@dataclass(frozen=True)
class Answers:
    """What the server said of every row: greedy tokens, and ln p of the row's choices or answer."""

    tokens: list[list[int]]
    scores: list[list[float]]


def open_compared(
    url: str,
    directory: Path,
    rows: int,
    served_name: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    base_name: str | None = None,
) -> Compared:
    """Load a run here, and find it and its stages at the server.

    Raises:
        HeftError: the directory or its base cannot be read, or the server has no such model.
    """
    directory = adapter_directory(directory)
    manifest = read_manifest(directory)
    client = ServerClient(url, served_name or own_name(directory))
    client.require_model()
    settings = base_settings(directory, manifest, trust_remote_code, base_name)
    base = load_base(settings if device is None else settings.model_copy(update={"device": device}))
    every = tuple(entry.name for entry in manifest.adapters)
    probe = make_probe(base.tokenizer, manifest, positions_in(directory, every), rows)
    model = open_adapters(directory, base).model
    logits = row_logits(model, probe.rows[:4], base.tokenizer.pad_token_id)
    rounding = rounding_of(model, base.settings.quantization, logits)
    stages = list(dict.fromkeys(entry.stage for entry in manifest.adapters))
    known = {settings.name: ()}
    for number, stage in enumerate(stages, start=1):
        full = client.model if stage == stages[-1] else f"{client.model}:{stage}"
        known[full] = tuple(entry.name for entry in manifest.adapters if entry.stage in stages[:number])
    there = client.names()
    names = {name: adapters for name, adapters in known.items() if name in there}
    return Compared(url, directory, model, base.tokenizer, names, probe.rows, probe.source, rounding)


def served_findings(compared: Compared) -> Iterator[Finding]:
    """Each served name alone, then all of them at once; a check that ends in an error has failed."""
    alone: dict[str, Answers] = {}
    for name in compared.names:
        try:
            alone[name] = ask(compared, name)
            yield from _against_the_run(compared, name, alone[name], "alone")
        except HeftError as error:
            yield broken_off(f"{name} alone", error)
    if len(alone) > 1:
        with ThreadPoolExecutor(len(alone)) as pool:
            asked = {name: pool.submit(ask, compared, name) for name in alone}
        for name, future in asked.items():
            try:
                yield from _against_the_run(compared, name, future.result(), "in mixed batches")
            except HeftError as error:
                yield broken_off(f"{name} in mixed batches", error)


def ask(compared: Compared, name: str) -> Answers:
    """What the server says of every row."""
    client = ServerClient(compared.url, name)
    prompts = [row.prompt for row in compared.rows]
    texts = client.texts(prompts, TOKENS, batch_size=4, ignore_eos=True)
    scores = client.log_likelihoods([(row.prompt, choices_of(row)) for row in compared.rows], batch_size=4)
    return Answers([each["token_ids"] for each in texts], scores)


def choices_of(row: EncodedExample) -> Sequence[tuple[int, ...]]:
    """What is scored behind a row's prompt: its choices, or its answer."""
    return row.choices or (row.answer,)


@torch.inference_mode()
def _against_the_run(compared: Compared, name: str, answers: Answers, how: str) -> Iterator[Finding]:
    model, rounding, rows = compared.model, compared.rounding, compared.rows
    longest = max(len(choice) for row in rows for choice in choices_of(row))
    with activated(model, compared.names[name]):
        gaps = [gap_of(model, row.prompt, tokens) for row, tokens in zip(rows, answers.tokens, strict=True)]
        questions = [Asked(row.id, row.group, row.prompt, tuple(choices_of(row))) for row in rows]
        expected = plain_log_likelihoods(model, questions, 1, compared.tokenizer.pad_token_id)
    yield judged(
        f"{name} {how}: greedy tokens",
        f"each of {TOKENS} tokens that the server chose, with the likeliest one here after those before it",
        "logits of the two",
        max(gap for gap, _ in gaps),
        2 * rounding.logits,
        f"{rounding.why}, of two logits",
        differ=sum(count for _, count in gaps),
        of=sum(map(len, answers.tokens)),
        things="tokens",
    )
    pairs = [pair for found in zip(expected, answers.scores, strict=True) for pair in zip(*found, strict=True)]
    yield judged(
        f"{name} {how}: log-likelihoods",
        "ln p of the choices of every row",
        "log-likelihoods",
        max(abs(one - other) for one, other in pairs),
        2 * longest * rounding.logits,
        f"{rounding.why}, of two logits for each of at most {longest} tokens",
    )


def gap_of(model: PreTrainedModel, prompt: tuple[int, ...], tokens: Sequence[int]) -> tuple[float, int]:
    """By how much the likeliest token's logit exceeds that of a server's token at most, and how often it does."""
    if not tokens:
        return float("nan"), 0
    ids = torch.tensor([[*prompt, *tokens[:-1]]], device=model.device)
    lengths = torch.tensor([len(prompt)], device=model.device)
    logits_KV = logits_of(model, len(tokens), input_ids=ids, prompt_lengths=lengths, use_cache=False)[0].float()
    chosen_K = logits_KV.gather(-1, torch.tensor(tokens, device=model.device)[:, None]).squeeze(1)
    gaps_K = logits_KV.amax(-1) - chosen_K
    return float(gaps_K.max()), int((gaps_K > 0).sum())


@dataclass(frozen=True)
class Asked:
    """A row as what `heft.evaluation.likelihood` scores, with the choices that were asked of a server."""

    id: str
    group: str | None
    prompt: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]
