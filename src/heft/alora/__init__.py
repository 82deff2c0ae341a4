"""LoRA that acts on some tokens only (Activated LoRA, arXiv 2504.12397), as a PEFT method.

Its low-rank update is added for the last N tokens of a prompt and for every later one; earlier tokens keep the base's
keys and values, so these can be cached, in training and in use. `import heft.alora` registers it with PEFT, whose own
calls then take an `ActivatedLoraConfig`.

| file | what it holds |
|---|---|
| config.py, model.py | the PEFT method: LoRA's own, with positions |
| variant.py | the update of one module, added where the forward pass has tokens of its positions |
| placeable.py | whether a module's input has a row for each token |

Where a token stands is told by heft.reft.tracker, which both methods ask.
"""

from heft.alora.config import ActivatedLoraConfig
from heft.alora.model import ActivatedLoraModel
from heft.reft.registration import add_method

__all__ = ["ActivatedLoraConfig", "ActivatedLoraModel"]

add_method("activated_lora", ActivatedLoraConfig, ActivatedLoraModel, "lora_")
