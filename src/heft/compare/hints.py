"""The hints of a run, from the files in its directory."""

import math

from heft.compare.runs import Evaluated, RunFiles, read_metrics
from heft.results.hints import Hint, RunFacts, StageFacts
from heft.results.training_hints import hints_of


def hints_of_run(run: RunFiles) -> list[Hint]:
    """What looks wrong in a run; none where it has not finished a stage.

    Raises:
        HeftError: metrics.jsonl cannot be read.
    """
    base, *trained = run.evaluations
    if not trained:
        return []
    logged = read_metrics(run.path)
    parameters = (run.manifest.get("base") or {}).get("parameters")
    return hints_of(
        RunFacts(
            StageFacts(base.summary, base.records),
            [_facts(run, evaluation, logged) for evaluation in trained],
            run.recipe.get("task", {}),
            parameters if isinstance(parameters, int) else None,
        )
    )


def _facts(run: RunFiles, evaluation: Evaluated, logged: list[dict]) -> StageFacts:
    rows = [row for row in logged if row.get("stage") == evaluation.stage and type(row.get("step")) is int]
    losses, validation = (
        [(row["step"], row[key]) for row in rows if type(row.get(key)) is float and math.isfinite(row[key])]
        for key in ("loss", "eval_loss")
    )
    settings = run.recipe["stages"].get(evaluation.stage, {})
    return StageFacts(evaluation.summary, evaluation.records, settings, losses, validation)
