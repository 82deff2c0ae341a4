"""`heft plan`, `train`, `verify` and `generate` on a model, with and without what heft computes once."""

import contextlib
import io
import json
import os
import shutil
import warnings
from pathlib import Path

import torch
from forks import frames, in_words

from heft.cli.app import app
from heft.errors import HeftError

EQUAL = 1e-4
"""Largest difference of losses, as a share of the largest, that rounding may make over a stage's steps."""
SCORES = 1e-3
_TASK = {"name": "whereabouts", "people": 2, "moves": 3, "train_size": 8, "eval_size": 4}
_COARSE = {"method": "lora", "rank": 4, "steps": 2, "batch_size": 8, "learning_rate": 0.005}
_FINE = {"method": "reft", "rank": 2, "steps": 3, "batch_size": 8, "learning_rate": 0.02}


def check(model: Path, folder: Path) -> dict:
    """What was seen, what failed, and what heft refused before training, each by what was tried."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    found: dict = {"faults": {}, "refused": {}, "notes": []}
    _plan(model, found)
    _stages(model, found, "two stages", {"coarse": _COARSE, "fine": _FINE | {"positions": "l2"}})
    _stages(model, found, "upper layers", {"fine": _FINE | {"positions": "f1+l1", "layers": [-2, -1]}})
    if "two stages" in found["refused"]:
        _stages(model, found, "LoRA alone", {"coarse": _COARSE})
    for run in ("two stages", "upper layers", "LoRA alone"):
        if (Path(run) / "fast" / "adapter").exists():
            _verify(found, run)
            _generate(found, run)
    return found


def _recipe(model: Path, stages: dict, fast: bool) -> dict:
    chosen = {name: stage | ({"reuse": fast} if stage["method"] == "reft" else {}) for name, stage in stages.items()}
    settings = {"name": str(model), "dtype": "float32"}
    return {
        "name": "x",
        "model": settings,
        "task": _TASK,
        "stages": chosen,
        "evaluation": {"share_prefix": fast, "batch_size": 8},
    }


def _plan(model: Path, found: dict) -> None:
    stages = {"coarse": _COARSE, "fine": _FINE | {"positions": "l2"}}
    Path("plan.yaml").write_text(json.dumps(_recipe(model, stages, True)))
    text = _run(found, "plan", "plan", "plan.yaml", "--no-probe", "--json")
    if text is not None:
        plan = json.loads(text)
        found["plan"] = all(stage["flops"] is not None for stage in plan["stages"])


def _stages(model: Path, found: dict, what: str, stages: dict) -> None:
    """Train both ways and compare each logged loss and each score."""
    for fast in (True, False):
        way = "fast" if fast else "plain"
        path = Path(what) / f"{way}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(_recipe(model, stages, fast)))
        text = _run(found, what, "train", str(path), "--output", str(path.with_suffix("")))
        if text is None:
            return
        if fast:
            found["notes"] += [line.strip() for line in text.splitlines() if _is_of_interest(line)]
    losses = [_losses(Path(what) / way) for way in ("fast", "plain")]
    scores = [_scores(Path(what) / way) for way in ("fast", "plain")]
    loss, score = _furthest(*losses), _furthest(*scores)
    found[what] = {"loss": loss, "score": score}
    if not loss <= EQUAL * max(1.0, *losses[1].values()):
        found["faults"][f"{what}: losses"] = f"differ by {loss:.1e}"
    if not score <= SCORES * max(1.0, *map(abs, scores[1].values())):
        found["faults"][f"{what}: scores"] = f"differ by {score:.1e}"


def _is_of_interest(line: str) -> bool:
    return any(words in line for words in ("reused", "skipped", "not counted", "leaves out", "plain", "length"))


def _losses(run: Path) -> dict:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(line["stage"], line["step"]): line["loss"] for line in lines if "loss" in line}


def _scores(run: Path) -> dict:
    found = {}
    for path in sorted((run / "records").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            for choice, score in enumerate(record["log_likelihoods"]):
                found[path.stem, record["id"], choice] = score
    return found


def _furthest(first: dict, second: dict) -> float:
    if first.keys() != second.keys() or not first:
        return float("inf")
    return max(abs(first[key] - second[key]) for key in first)


def _verify(found: dict, run: str) -> None:
    text = _run(found, f"{run}: verify", "verify", str(Path(run) / "fast" / "adapter"), "--json", may_fail=True)
    if text is not None:
        findings = json.loads(text[text.index("{") :])["findings"]
        failed = [f"{f['check']} ({f['compared']})" for f in findings if f["state"] == "FAILED"]
        if failed:
            found["faults"][f"{run}: verify"] = "; ".join(failed)


def _generate(found: dict, run: str) -> None:
    words = (str(Path(run) / "fast" / "adapter"), "Where is Anna?", "--text", "--max-new-tokens", "4")
    _run(found, f"{run}: generate", "generate", *words)


def _run(found: dict, what: str, *words: str, may_fail: bool = False) -> str | None:
    """What a command printed; where it ended in an error, None, and the error is in `found`."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            app(list(words), standalone_mode=False)
    except HeftError as error:
        kind = "refused" if _nothing_was_trained(words) else "faults"
        found[kind][what] = str(error)
        return None
    except SystemExit as error:
        if error.code and not may_fail:
            found["faults"][what] = f"exit status {error.code}"
    except Exception as error:
        if type(error).__name__ != "Exit":
            found["faults"][what] = f"{in_words(error)} ({' < '.join(frames(error))})"
            return None
        if error.exit_code and not may_fail:
            found["faults"][what] = f"exit status {error.exit_code}"
    return printed.getvalue()


def _nothing_was_trained(words: tuple[str, ...]) -> bool:
    """Whether a refused command had not begun: a plan, or a run without a line of metrics."""
    if words[0] == "train":
        return not (Path(words[-1]) / "metrics.jsonl").exists()
    return words[0] == "plan"
