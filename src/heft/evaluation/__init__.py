"""Evaluation of a model on a task: likelihood of choices, or generation, with a record of every example."""

from heft.evaluation.evaluator import Evaluation, evaluate, evaluate_examples

__all__ = ["Evaluation", "evaluate", "evaluate_examples"]
