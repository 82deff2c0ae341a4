"""heft: adapt a language model to a reasoning task in stages, coarse to fine, and report the accuracy after each.

`import heft` needs no torch. `import heft.reft` registers ReFT with PEFT.
"""

import os

from heft._lazy import lazy_attributes
from heft.errors import HeftError

__version__ = "0.1.0"
__all__ = ["HeftError", "evaluate", "load", "load_recipe", "stack", "train"]

# Requests to the Hub carry no telemetry unless the environment sets this to 0.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "evaluate": "heft.evaluation",
        "load": "heft.adapters.load",
        "load_recipe": "heft.recipe.files",
        "stack": "heft.adapters.loaded",
        "train": "heft.run.train",
    },
)
