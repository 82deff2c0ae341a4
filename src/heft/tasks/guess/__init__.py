"""What a table's rows are for, decided from their columns and cells."""

from heft.tasks.guess.decide import Guess, guess_task

__all__ = ["Guess", "guess_task"]
