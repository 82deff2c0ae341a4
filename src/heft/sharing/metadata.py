"""The metadata at the head of a model card, as the Hub reads them (huggingface_hub.ModelCardData)."""

from typing import TYPE_CHECKING

from heft.sharing.facts import Facts
from heft.text.units import interval

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData


def metadata(facts: Facts, name: str) -> "ModelCardData":
    """Base model, tags, data set, metrics and results; `name` is the repository's."""
    from huggingface_hub import ModelCardData

    methods = list(dict.fromkeys(entry.method for entry in facts.manifest.adapters))
    base = facts.base_on_the_hub
    results = _results(facts)
    return ModelCardData(
        base_model=base,
        base_model_relation="adapter" if base else None,
        library_name="heft",
        pipeline_tag="text-generation",
        tags=["heft", "peft", *methods],
        datasets=[facts.dataset] if facts.dataset else None,
        metrics=["accuracy"] if results else None,
        license=facts.license,
        model_name=name.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )


def _results(facts: Facts) -> "list[EvalResult]":
    """The accuracy after the last stage, with its interval in the metric's name."""
    if not facts.stages:
        return []
    from huggingface_hub import EvalResult

    last, task = facts.stages[-1], str(facts.task.get("name"))
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=facts.dataset or task,
            dataset_name=task,
            metric_type="accuracy",
            metric_value=round(last.accuracy, 6),
            metric_name=f"accuracy after {last.name} (95 % interval {interval(last.interval)}, n = {last.n})",
        )
    ]
