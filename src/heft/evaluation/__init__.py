"""Evaluation of a model on a task: likelihood of choices, or generation; records of every example; figures from them.

`records` and `metrics` need no torch.
"""

from heft._lazy import lazy_attributes

__all__ = ["Evaluation", "evaluate", "evaluate_examples"]

__getattr__, __dir__ = lazy_attributes(__name__, dict.fromkeys(__all__, "heft.evaluation.evaluator"))
