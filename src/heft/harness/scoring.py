"""ln p of continuations, and whether greedy decoding would give them, by heft's own evaluation."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from heft.errors import HeftError
from heft.evaluation.finite import explain_singular_rotation
from heft.evaluation.scoring import in_fitting_batches, score_choices
from heft.harness.questions import Questions
from heft.recipe.recipe import EvaluationSettings
from heft.runtime.reporter import Reporter

WHAT = "log-likelihoods"


class Greedy:
    """Hears of the tokens of every choice (`OnTokens`), and knows of which all are the likeliest in their places."""

    def __init__(self, counts: Sequence[int]):
        self.choices = [[True] * count for count in counts]

    def __call__(self, index: int, choice: int, log_probs_KV: torch.Tensor, ids_K: torch.Tensor) -> None:
        if self.choices[index][choice]:
            self.choices[index][choice] = bool((log_probs_KV.argmax(-1) == ids_K).all())


def score_requests(
    model: PreTrainedModel, pad_id: int, asked: Questions, settings: EvaluationSettings, reporter: Reporter
) -> list[tuple[float, bool]]:
    """For each request: the sum of ln p of its continuation's tokens, and whether each of them is the likeliest.

    Raises:
        HeftError: the model computes NaN or infinity, or memory does not suffice for a batch of one.
    """
    if not asked.places:
        return []

    def run(batch_size: int) -> list[tuple[float, bool]]:
        greedy = Greedy([len(question.choices) for question in asked.questions])
        with reporter.progress(WHAT, len(asked.questions)), explain_singular_rotation(model):
            scores = score_choices(
                model, pad_id, asked.questions, settings, batch_size, reporter, WHAT, on_tokens=greedy
            )
        return [(scores[question][choice], greedy.choices[question][choice]) for question, choice in asked.places]

    no_room = HeftError(
        "the device's memory does not suffice for a batch of one; lower max_length, set share_prefix=False, or take a"
        " smaller or quantized base model"
    )
    return in_fitting_batches(run, model, settings, reporter, WHAT, no_room)
