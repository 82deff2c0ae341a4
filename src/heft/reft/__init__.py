"""Representation fine-tuning (ReFT) as a PEFT method: small edits of chosen hidden states.

`import heft.reft` registers it with PEFT, whose own calls (`get_peft_model`, `PeftModel.from_pretrained`, ...) then
take a `ReftConfig`.

| file | what it holds |
|---|---|
| interventions.py | the five equations |
| orthonormal.py | matrices with orthonormal rows, many at once |
| positions.py | which tokens of a batch are edited |
| packing.py | rows that hold several sequences |
| tracker.py | what one forward pass is about: its prompts, its rotations |
| prompts.py, generating.py, caches.py | where prompts end: in a pass, in `generate`, behind a cache |
| refusals.py | why prompt positions are refused where that would be a guess |
| collating.py | prompt lengths for Trainers that keep the labels from the model |
| layer.py | the edit, hung on a module of the model |
| streams.py, editable.py | models that keep several hidden states per token; which can be edited |
| sites.py | where blocks, attentions and MLPs are in a model |
| config.py, model.py, registration.py, builtin_bases.py | the PEFT method |

Its settings are in heft.settings.reft, since recipes need them without torch.
"""

from heft.reft.collating import with_prompt_lengths
from heft.reft.config import ReftConfig
from heft.reft.editable import require_editable
from heft.reft.interventions import INTERVENTIONS
from heft.reft.layer import ReftLayer
from heft.reft.model import ReftModel
from heft.reft.orthonormal import orthonormal_rows
from heft.reft.registration import register
from heft.settings.reft import Positions, parse_positions

__all__ = [
    "INTERVENTIONS",
    "Positions",
    "ReftConfig",
    "ReftLayer",
    "ReftModel",
    "orthonormal_rows",
    "parse_positions",
    "require_editable",
    "with_prompt_lengths",
]

register()
