"""Representation fine-tuning (ReFT) as a PEFT method: small edits of chosen hidden states.

`import heft.reft` registers it with PEFT, whose own calls (`get_peft_model`, `PeftModel.from_pretrained`, ...) then
take a `ReftConfig`.

| file | what it holds |
|---|---|
| interventions.py | the interventions as modules |
| layout.py | which tokens a forward pass holds |
| packing.py | rows that hold several sequences |
| tracker.py | what one forward pass is about: its prompts, its rotations |
| prompts.py, generating.py, caches.py | where prompts end: in a pass, in `generate`, behind a cache |
| refusals.py | why prompt positions are refused where that would be a guess |
| collating.py | prompt lengths for Trainers that remove the labels from the batch |
| layer.py | the edit, hung on a module of the model |
| streams.py, editable.py | models with several hidden states per token; which can be edited |
| sites.py | where blocks, attentions and MLPs are in a model |
| config.py, model.py, registration.py | the PEFT method |

Equations, positions and settings are in heft.edits, since recipes and reports need them without torch.
"""

from heft.edits.arithmetic import orthonormal_rows
from heft.edits.equations import EQUATIONS
from heft.edits.positions import Positions, parse_positions
from heft.reft.collating import with_prompt_lengths
from heft.reft.config import ReftConfig
from heft.reft.editable import require_editable
from heft.reft.layer import ReftLayer
from heft.reft.model import ReftModel
from heft.reft.registration import register

__all__ = [
    "EQUATIONS",
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
