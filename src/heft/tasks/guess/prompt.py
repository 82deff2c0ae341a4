"""A prompt from the columns that can be read."""

import re
from collections.abc import Collection, Mapping

from heft.errors import HeftError
from heft.tasks.guess.columns import Column

_TEXT_NAMES = (
    *("text", "sentence", "prompt", "question", "input", "message", "body", "content", "review", "query", "ctx"),
)
_CONTEXT_NAMES = ("context", "passage", "article", "document", "paragraph", "story", "support", "background")
_ANSWER_TOLD = (
    *("rationale", "explanation", "exp", "reasoning", "justification", "solution"),
    *("cot", "cot_content", "chain_of_thought"),
)
"""Names of columns that tell or explain the answer: a prompt has them only where there is nothing else to read."""


def template_of(columns: Mapping[str, Column], taken: Collection[str], heading: str) -> str:
    """A prompt of the columns that can be read, under their names if several.

    One that is called as text is, such as `question`, is enough where there are more than two, with what it is about.

    Args:
        columns: of the table.
        taken: names of those that tell the answer.
        heading: of the answer.

    Raises:
        HeftError: no column can be read, or none that can has a name that a prompt can use.
    """
    others = {name: column for name, column in columns.items() if name not in taken}
    texts = [column for column in others.values() if column.is_text]
    readable = [column for column in texts if column.called.lower() not in _ANSWER_TOLD] or texts
    free = [column for column in readable if column.name.strip() and not re.search("[{}]", column.name)]
    text = [column for column in free if not column.can_be_labels] or free
    if not text and readable:
        raise HeftError(
            f"no prompt can name the column {readable[0].name!r}; give it a name that is not empty and has no braces"
        )
    if not text:
        example = next(iter(others), next(iter(columns)))
        raise HeftError(
            f"no column of {', '.join(columns)} beside {', '.join(taken)} holds text that a prompt could be made of;"
            f' give one with --prompt, such as --prompt "{{{example}}}\\nAnswer:"'
        )
    chosen = text[:3]
    if len(text) > 2 and sum(column.called.lower() in _TEXT_NAMES for column in text) == 1:
        chosen = [column for column in text if column.called.lower() in (*_TEXT_NAMES, *_CONTEXT_NAMES)]
    lines = [f"{column.heading}: {{{column.name}}}" for column in chosen]
    return "\n".join([*lines, f"{heading}:"])
