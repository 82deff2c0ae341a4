"""heft: adapt a language model to a reasoning task in stages, coarse to fine, and report the accuracy after each.

`import heft` needs no torch: what does is imported when it is first used. `import heft.reft` registers ReFT with PEFT.
"""

import os
from importlib import import_module

from heft.errors import HeftError

__version__ = "0.1.0"
__all__ = ["HeftError", "evaluate", "load", "load_recipe", "stack", "train"]

# Requests to the Hub carry no telemetry unless the environment sets this to 0.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

_MODULES = {
    "evaluate": "heft.evaluation",
    "load": "heft.adapters.load",
    "load_recipe": "heft.recipe.files",
    "stack": "heft.adapters.loaded",
    "train": "heft.run.train",
}


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
