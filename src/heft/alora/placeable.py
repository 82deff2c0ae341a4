"""Whether LoRA can follow positions in a model's modules, found out before anything is trained."""

from collections.abc import Collection

from torch import nn

from heft.alora.variant import NoRowOfToken, rows_of_a_token
from heft.reft.editable import ROWS, TOKENS, runs_small_batch


def misplaced(model: nn.Module, names: Collection[str]) -> dict[str, str]:
    """Which of these modules have an input without a row for each token, seen in one small forward pass.

    Args:
        model: a causal language model, with or without adapters, on any device; on the meta device it costs nothing.
        names: full names of linear modules.

    Returns:
        Names, with the reason in words; none where the model does not run so.
    """
    found: dict[str, str] = {}

    def look(name: str, args: tuple) -> None:
        try:
            if args:
                rows_of_a_token(args[0].shape, (ROWS, TOKENS))
        except NoRowOfToken as error:
            found.setdefault(name, error.reason)

    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: look(name, args))
        for name in names
    ]
    try:
        runs_small_batch(model)
    finally:
        for handle in handles:
            handle.remove()
    return found
