"""How much a pass may hold: what the recipe asks for, and less from the time on when memory ran out."""

from collections.abc import Callable, Sequence

from accelerate.utils.memory import clear_device_cache

from heft.errors import HeftError


class TokenBudget:
    """The room for a pass.

    Args:
        tokens: most tokens of several configurations together; one configuration's (micro-)batch may be larger.
        note: is told when memory ran out.

    Attributes:
        tokens: the same, or fewer once memory has run out.
    """

    def __init__(self, tokens: int, note: Callable[[str], None]):
        self.tokens, self._note = tokens, note
        self._has_run_out = False

    def is_short_for(self, tokens: int) -> bool:
        """Whether memory has run out before, and so many tokens are more than what is tried since."""
        return self._has_run_out and tokens > self.tokens

    def shrink(self, halves: Sequence[int]) -> None:
        """Note that a pass did not fit: from now on no more is tried than the larger of its halves.

        Args:
            halves: tokens of both; empty where it cannot be split.

        Raises:
            HeftError: it cannot be split.
        """
        if not halves:
            raise HeftError(
                "the device's memory does not suffice for a single row of one configuration; lower task.max_length, or"
                " quantise the base model (model.quantization: 4bit)"
            )
        clear_device_cache()
        self._has_run_out = True
        self.tokens = min(self.tokens, max(halves))
        self._note(f"out of memory; going on with at most {self.tokens:,} tokens a pass, the steps are as before")
