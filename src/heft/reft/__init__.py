"""Representation fine-tuning (ReFT) as a PEFT method: small edits of chosen hidden states.

`import heft` makes `ReftConfig` work with PEFT's own calls (`get_peft_model`, `PeftModel.from_pretrained`, ...).

| file | what it holds |
|---|---|
| settings.py | every setting, declared once, without torch |
| equations.py | the interventions as facts, without torch |
| interventions.py | the interventions as modules |
| orthonormal.py | matrices with orthonormal rows, many at once |
| positions.py | which tokens are edited, without torch |
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
"""

from heft._lazy import lazy_attributes

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

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "INTERVENTIONS": "heft.reft.interventions",
        "Positions": "heft.reft.positions",
        "ReftConfig": "heft.reft.config",
        "ReftLayer": "heft.reft.layer",
        "ReftModel": "heft.reft.model",
        "orthonormal_rows": "heft.reft.orthonormal",
        "parse_positions": "heft.reft.positions",
        "require_editable": "heft.reft.editable",
        "with_prompt_lengths": "heft.reft.collating",
    },
)
