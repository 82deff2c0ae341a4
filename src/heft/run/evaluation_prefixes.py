"""The prefixes of a run's evaluation rows, kept from one evaluation to the next where that saves something."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from heft.data.encode import EncodedExample
from heft.evaluation.kept import QuestionPrefixes, SameEvaluations, can_keep, same_evaluations
from heft.models.load import Base
from heft.recipe.recipe import Recipe
from heft.runtime.reporter import Reporter
from heft.text.listing import listed
from heft.training.reuse.activation_cache import ROWS_PER_PASS
from heft.training.reuse.shared import RowPrefixes


class EvaluationPrefixes:
    """Gives each evaluation of a run the prefixes that it shares with others (heft.evaluation.kept).

    Args:
        recipe: of the run.
        base: its model, to which stages attach their adapters.
        rows: all evaluation rows.
    """

    def __init__(self, recipe: Recipe, base: Base, rows: Sequence[EncodedExample]):
        self._rows, self._pad_id = rows, base.tokenizer.pad_token_id
        self._same = same_evaluations(recipe, rows, base.model.device)
        self._begun: SameEvaluations | None = None
        self._kept: RowPrefixes | None = None

    def of(self, name: str, model: PreTrainedModel, reporter: Reporter) -> QuestionPrefixes | None:
        """For the evaluation of this name, "base" or a stage's; None where it shares none with another.

        Args:
            model: that is evaluated.
            reporter: hears where they are kept.
        """
        same = next((each for each in self._same if name in each.names), None)
        if same is None or not can_keep(model, self._rows, self._pad_id):
            return None
        if same is not self._begun:
            self.close()
            kept = RowPrefixes(self._rows, same.start, ROWS_PER_PASS, same.of_base)
            left = same.names[same.names.index(name) :]
            where = kept.make_room(model, self._pad_id) if len(left) > 1 else "off"
            self._begun, self._kept = same, kept
            if where != "off":
                reporter.note(f"prefixes of evaluation rows are cached in {where} for {listed(left)}")
        return QuestionPrefixes(self._kept, model, same.start, self._pad_id)

    def ended(self, name: str) -> None:
        """Forget what no later evaluation needs."""
        if self._begun is not None and name == self._begun.names[-1]:
            self.close()

    def close(self) -> None:
        """Forget all."""
        if self._kept is not None:
            self._kept.close()
        self._begun = self._kept = None
