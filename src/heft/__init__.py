"""heft: adapt a language model to a reasoning task in stages, coarse to fine, and report the accuracy after each.

`import heft` needs no torch: what does is imported when it is first used. `import heft.reft` registers ReFT with PEFT.
`__init__.pyi` tells type checkers what there is.
"""

import os
from importlib import import_module

from heft.errors import HeftError

__version__ = "0.1.0"
__all__ = [
    "CheckpointSettings",
    "EarlyStoppingSettings",
    "EvaluationSettings",
    "HeftError",
    "JointStage",
    "LoraSettings",
    "LoraStage",
    "ModelSettings",
    "Recipe",
    "ReftSettings",
    "ReftStage",
    "Reporter",
    "Result",
    "RowsSettings",
    "TaskSettings",
    "evaluate",
    "load",
    "load_recipe",
    "predict",
    "stack",
    "train",
]

# Requests to the Hub carry no telemetry unless the environment sets this to 0.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

_RECIPE = ("EvaluationSettings", "JointStage", "LoraSettings", "LoraStage", "Recipe", "ReftStage")
_MODULES = {
    **dict.fromkeys(_RECIPE, "heft.recipe.recipe"),
    **dict.fromkeys(("CheckpointSettings", "EarlyStoppingSettings"), "heft.recipe.training"),
    "ModelSettings": "heft.recipe.model",
    "ReftSettings": "heft.edits.settings",
    "Reporter": "heft.runtime.reporter",
    "Result": "heft.api.result",
    "RowsSettings": "heft.tasks.rows",
    "TaskSettings": "heft.tasks.base",
    "evaluate": "heft.evaluation",
    "load": "heft.adapters.load",
    "load_recipe": "heft.recipe.files",
    "predict": "heft.api.predict",
    "stack": "heft.adapters.stacking",
    "train": "heft.api.train",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
