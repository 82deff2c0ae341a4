"""What was found, in words: a line for each class, totals, and docs/architectures.md."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from families import NOT_TEXT

_MOST = 300


@dataclass(frozen=True)
class Outcome:
    """What became of one class.

    Attributes:
        name: as transformers calls its model type.
        state: "works", "refused" (a part of it, before training, with the reason), "fails", "not built", "not text".
        notes: what heft said of paths that it does not take, and sites that the class does not have.
        reasons: of a refusal or a failure.
    """

    name: str
    state: str
    notes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def line(self) -> str:
        """For the terminal."""
        return f"{self.name}: {self.state}{' — ' if self.reasons else ''}{'; '.join(self.reasons)[:1500]}"


def outcome_of(name: str, found: dict) -> Outcome:
    """From what the checks gave."""
    if name in NOT_TEXT:
        return Outcome(name, "not text", reasons=[NOT_TEXT[name]])
    if "not_built" in found:
        return Outcome(name, "not built", reasons=[found["not_built"]])
    if "error" in found:
        return Outcome(name, "fails", reasons=[found["error"], *found.get("trace", [])])
    attached, runs = found["attached"], found["runs"]
    sides = (attached, found["counts"], runs)
    faults = [f"{what}: {why}" for side in sides for what, why in side["faults"].items()]
    notes = _notes(attached, runs)
    if faults:
        return Outcome(name, "fails", notes, faults)
    refused = [why for what, why in (attached["refused"] | runs["refused"]).items() if what in _NEEDED]
    if refused:
        return Outcome(name, "refused", notes, [refused[0]])
    return Outcome(name, "works", notes)


_NEEDED = ("block", "two stages", "upper layers", "LoRA alone", "plan")
"""What a class has to do to work; other sites than its blocks it may lack."""


def _notes(attached: dict, runs: dict) -> list[str]:
    missing = [site for site in attached["refused"] if site not in _NEEDED]
    notes = [f"no site {site}" for site in missing]
    told = " ".join(runs["notes"])
    notes += [words for key, words in _WORDS.items() if key in told]
    if not runs.get("plan", True):
        notes.append("FLOPs are not counted")
    return notes


_WORDS = {
    "prefixes reused": "prefixes reused",
    "layers 0 to": "lower layers reused",
    "leaves out": "all-linear leaves weights out",
    "one length": "batches of rows of one length",
    "plain path": "a fast path is switched off",
}


def totals(outcomes: Sequence[Outcome]) -> str:
    """How many of what became of what."""
    text = [outcome for outcome in outcomes if outcome.state not in ("not text", "not built")]
    count = {state: sum(o.state == state for o in text) for state in ("works", "refused", "fails")}
    built = len(outcomes) - sum(o.state == "not built" for o in outcomes)
    share = 100 * count["works"] / len(text) if text else 0.0
    return (
        f"{len(outcomes)} names, {built} built, {len(text)} of these text models: {count['works']} work"
        f" ({share:.1f} %), {count['refused']} are refused before training, {count['fails']} fail"
    )


def page(outcomes: Sequence[Outcome]) -> str:
    """docs/architectures.md."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("transformers", "peft", "torch"))
    lines = [
        "# Architectures",
        "",
        "Written by `make architectures`, which builds each class of transformers' causal-LM mapping as a tiny random",
        "model (hidden size 32, 4 layers) and runs it through PEFT and through the command line: edits against a",
        "computation of its own, padding on either side, rows alone, with a cache and without, reload; FLOPs as",
        "`heft plan` counts them against those that torch counts in a pass; `heft plan`, `train` (LoRA, then ReFT on",
        "the last positions, and ReFT on upper layers) with fast paths on and off, `verify` and `generate`.",
        f"{libraries}, on a CPU in float32.",
        "",
        f"{totals(outcomes)}.",
        "",
        "A name with a `+` is a class with other settings. *Works*: everything is exact, whatever path it takes.",
        "*Refused*: heft says before training what cannot be done and why. *Not built*: the class cannot be made tiny,",
        "or transformers itself cannot build or reload it.",
        "",
        "| class | | notes |",
        "|---|---|---|",
    ]
    for outcome in outcomes:
        words = "; ".join([*(_cell(reason) for reason in outcome.reasons[:1]), *outcome.notes])
        lines.append(f"| {outcome.name} | {outcome.state} | {words} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")[:_MOST]
