"""The model card: what was trained on what, how well it does, what is not known, how to load it."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from heft.recipe.training import validation_rows_of
from heft.results.summary import StageSummary
from heft.settings.files import to_yaml
from heft.sharing.facts import Facts
from heft.sharing.metadata import metadata
from heft.sharing.public import ON_THE_HUB, public_value
from heft.text.listing import listed
from heft.text.units import interval, percent

_METHODS = {"lora": "LoRA", "reft": "ReFT"}
_NOT_SHOWN = {"output", "checkpoint", "trackers", "model", "task", "sweep", "tune", "name"}
"""Settings of a recipe that do not change the result, or that the card shows elsewhere."""


def card(facts: Facts, repository: str, revision: str = "main") -> str:
    """README.md of a repository, with metadata at its head; it has no path and no user's name of this machine."""
    title = repository.rpartition("/")[2]
    parts = [f"# {title}", _opening(facts), *_results(facts), *_loading(facts, repository, revision), *_training(facts)]
    parts += _limits(facts)
    return f"---\n{metadata(facts, repository).to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def _opening(facts: Facts) -> str:
    stages = [f"{_METHODS[entry.method]} (`{entry.name}`)" for entry in facts.manifest.adapters]
    order = f"{listed(stages)}, in this order" if len(stages) > 1 else stages[0]
    settings = facts.manifest.model
    at = f" at revision `{facts.revision}`" if facts.revision else ""
    origin = ON_THE_HUB.get(facts.base)
    copy = f", a quantised copy of `{origin}` that comes with a package of PyPI" if origin else ""
    return (
        f"Adapters of the base model `{facts.base}`{at}{copy}: {order}. They were trained in `{settings.dtype}` with"
        f" [heft](https://arxiv.org/abs/2509.09801) {facts.manifest.heft_version}. Each folder is in PEFT's format."
    )


def _results(facts: Facts) -> list[str]:
    if not facts.stages:
        return []
    generated = facts.stages[0].majority is None
    headings = ("after", "accuracy", "95 % interval", "loss" if generated else "majority class", "parameters trained")
    rows = [headings, ("---",) * len(headings), *(_row(stage, generated) for stage in facts.stages)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    what = "answered exactly as the reference" if generated else "answered rightly"
    apart = "; none of them was trained on" if facts.is_checked and not facts.continued else ""
    return [
        "## Results",
        f"Share of {facts.stages[0].n:,} evaluation examples of the task `{facts.task.get('name')}` that are"
        f" {what}{apart}. Intervals are Wilson's, over examples.",
        table,
    ]


def _row(stage: StageSummary, generated: bool) -> tuple[str, ...]:
    beside = ("–" if stage.loss is None else f"{stage.loss:.3f}") if generated else percent(stage.majority)
    return (stage.name, percent(stage.accuracy), interval(stage.interval), beside, f"{stage.trainable_parameters:,}")


def _loading(facts: Facts, repository: str, revision: str) -> list[str]:
    last = facts.manifest.adapters[-1].name
    return [
        "## Use",
        f'```python\nimport heft\n\nmodel, tokenizer = heft.load("{repository}@{revision}")\n```',
        f'```\nheft generate {repository}@{revision} "a prompt"\nheft eval {repository}@{revision}\n```',
        "A commit in place of `"
        + revision
        + "` pins the version. heft checks each file's SHA-256, and that the base and"
        " its tokenizer are those that were trained on. In PEFT, one adapter (a ReFT one after `import heft.reft`):",
        f'```python\nPeftModel.from_pretrained(base, "{repository}", subfolder="{last}")\n```',
    ]


def _training(facts: Facts) -> list[str]:
    task = {key: value for key, value in facts.task.items() if value not in (None, [], {}, False)}
    parts = ["## Data", _data(facts), f"```yaml\n{to_yaml({'task': task}).strip()}\n```"]
    if facts.recipe is None:
        return parts
    parts += ["## Recipe", *_chosen(facts), f"```yaml\n{to_yaml(_settings(facts)).strip()}\n```"]
    libraries = facts.run.get("libraries") or {}
    if libraries:
        parts.append("Made with " + ", ".join(f"{name} {version}" for name, version in libraries.items()) + ".")
    return parts


def _data(facts: Facts) -> str:
    counts = facts.run.get("data") or {}
    sizes = [f"{counts[split]['rows']:,} rows to {word}" for split, word in _SPLITS if split in counts]
    where = f"The data set `{facts.dataset}`" if facts.dataset else f"The task `{facts.task.get('name')}` of heft"
    if facts.task.get("name") == "rows" and not facts.dataset:
        where = "Rows that are not shared here"
    kept = "".join(
        f" Of the rows to train on, up to {rows:,} were kept as validation rows in {_named(stages)}."
        for rows, stages in _validation_rows(facts).items()
    )
    return f"{where}{': ' + listed(sizes) if sizes else ''}.{kept} The settings by which rows become prompts:"


_SPLITS = (("train", "train on"), ("eval", "evaluate on"))


def _validation_rows(facts: Facts) -> dict[int, list[str]]:
    """Numbers of training rows that were kept from training, each with the names of its stages."""
    rows = (facts.run.get("data") or {}).get("train", {}).get("rows", 0)
    found: dict[int, list[str]] = {}
    for name, stage in facts.recipe.stages.items() if facts.recipe is not None and rows else ():
        if not stage.is_frozen and stage.holdout:
            found.setdefault(validation_rows_of(stage.holdout, rows), []).append(name)
    return found


def _named(stages: Sequence[str]) -> str:
    return f"stage{'s' * (len(stages) > 1)} {listed([f'`{name}`' for name in stages])}"


def _chosen(facts: Facts) -> list[str]:
    """How the settings were found, where a sweep chose them."""
    if facts.tried is None:
        return []
    what = f"the best of {facts.tried:,} configurations" if facts.tried > 1 else "the only configuration"
    stage = _named(list(facts.recipe.stages)[-1:])
    return [f"The settings of {stage} are {what} of a sweep, chosen by its validation rows."]


def _settings(facts: Facts) -> dict[str, Any]:
    values = facts.recipe.model_dump(mode="json")
    found = {}
    for key, value in values.items():
        if key == "stages":
            found[key] = {name: _given(facts.recipe.stages[name], stage) for name, stage in value.items()}
        elif key not in _NOT_SHOWN and value not in (None, [], {}):
            found[key] = value
    return found


def _given(stage: Any, values: dict[str, Any]) -> dict[str, Any]:
    """A stage's method, and its settings that differ from their defaults."""
    try:
        defaults = type(stage).model_validate({"method": values["method"]}).model_dump(mode="json")
    except ValidationError:  # what has to be given has no default
        defaults = {}
    rest = {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}
    # of all settings only this one is a path
    rest |= {"from": public_value(rest["from"])} if "from" in rest else {}
    return {"method": values["method"], **rest}


def _limits(facts: Facts) -> list[str]:
    found = [
        "What the base model gets wrong or says that it should not, the adapters may too: nothing was measured beside"
        " the table above."
        if facts.stages
        else "Nothing was measured of these adapters here.",
        "It was trained for prompts of the form above; others were not tried.",
    ]
    if facts.stages:
        last, first = facts.stages[-1], facts.stages[0]
        found.append(f"One run with seed {facts.run.get('seed', 0)}: how results vary over seeds is not known.")
        if last.majority is not None and last.interval[0] <= last.majority:
            found.append("It is not shown to be better than always giving the commonest answer.")
        if len(facts.stages) > 1 and last.interval[0] <= first.interval[1] and first.interval[0] <= last.interval[1]:
            found.append("The intervals of the base and of the last stage overlap.")
        if not facts.is_checked:
            found.append("Training rows may be among the evaluated ones: the run did not rule it out.")
        if facts.continued:
            where = f"{_named(facts.continued)} started from another adapter"
            found.append(f"Whether the evaluated rows were trained on before is not known: {where}.")
    if facts.license is None:
        found.append("No license was given; ask before you use it. The base model's own license holds in any case.")
    return ["## Limits", "\n".join(f"- {text}" for text in found)]
