"""heft: adapt a language model to a reasoning task in stages, coarse to fine, and show what each stage bought.

`import heft` needs no torch; it makes ReFT known to PEFT (see heft.reft).
"""

import os

from heft._lazy import lazy_attributes
from heft.errors import HeftError
from heft.reft.registration import register_when_peft_is_imported

__version__ = "0.1.0"
__all__ = ["HeftError", "evaluate", "load", "load_recipe", "reft", "stack", "train"]

register_when_peft_is_imported()

# Nothing is sent that nobody asked for: requests to the Hub carry no word of this machine (set it to 0 to allow that).
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
