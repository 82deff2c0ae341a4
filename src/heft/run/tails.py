"""LoRA with positions and PEFT's aLoRA: which of the two a trained adapter is saved as, and which rows one is for."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from heft.adapters.methods import all_adapters_of
from heft.alora import ActivatedLoraConfig
from heft.data.encode import EncodedExample
from heft.data.tails import common_tail, ends_with
from heft.errors import HeftError
from heft.recipe.recipe import Recipe


def note_tails(model: PreTrainedModel, names: Sequence[str], rows: Sequence[EncodedExample]) -> None:
    """Note on adapters with positions the tokens that all prompts end with, where they do, before they are saved."""
    for name in names:
        config = model.peft_config[name]
        if isinstance(config, ActivatedLoraConfig):
            config.invocation_tokens = common_tail(rows, config.edited_positions.last)


def require_tails(recipe: Recipe, rows: Sequence[EncodedExample]) -> None:
    """Require that prompts end with the tokens by which an adapter that stages start from is switched on.

    Raises:
        HeftError: some do not.
    """
    for adapter in all_adapters_of(recipe):
        tokens = getattr(getattr(adapter.settings, "config", None), "invocation_tokens", None)
        others = [row for row in rows if tokens and not ends_with(row, tuple(tokens))]
        if others:
            raise HeftError(
                f"stages.{adapter.name}.from: the adapter is an aLoRA, which acts from its {len(tokens)} invocation"
                f" tokens {list(tokens)} on, and {len(others):,} of {len(rows):,} prompts do not end with these, or"
                f" have them in an answer too; one is {others[0].example.id}. Use the prompts that it was trained on"
            )
