"""A person's own rows: text with labels, questions with choices, prompts with completions, chats.

`settings` says what a recipe can set, `kinds` tells what rows are, one file makes examples of each kind, and `task` has
them together.
"""

from heft.tasks.rows.settings import RowsSettings
from heft.tasks.rows.task import Rows

__all__ = ["Rows", "RowsSettings"]
