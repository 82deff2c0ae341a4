"""Rows beside each other and beside the evaluation: the same question on both sides, labels all alike, answers cut."""

import re
from collections import Counter
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from heft.data.answers import can_be_right, comes_back, written
from heft.data.checks.fault import Fault, count, such_as
from heft.data.encode import EncodedExample
from heft.settings.words import show
from heft.tasks.base import Task
from heft.text.folding import folded, plain

FEW_ROWS = 10
"""Among fewer rows labels are alike by chance too often: 17 % of the time among four of BoolQ, 1 % among ten."""


def train_in_eval(train: Sequence[EncodedExample], evaluation: Sequence[EncodedExample]) -> list[Fault]:
    """Training rows that stand in the evaluation set.

    That is: the question is the same, and so are the options (in any order, under any letters) or the right one's
    text. The question alone does not tell where choices continue it: 111 training rows of winogrande, read that way,
    share no more with an evaluation row than a beginning such as "So". Where the answer is the same too, letter case
    and compatible characters do not count either; where it is another, they may be what is asked (Co or CO).
    """
    asked = {row.example.asks for row in evaluation}
    answered = {_answered(row) for row in evaluation}
    there = [row for row in train if row.example.asks in asked or _answered(row) in answered]
    if not there:
        return []
    same = sum(_answered(row) in answered for row in there)
    verb = "stands" if len(there) == 1 else "stand"
    found = (
        f"{count(there, len(train), 'train')} {verb} in the evaluation set too, {same:,} with the same answer,"
        f" {such_as(there[0])}"
    )
    return [Fault("train_in_eval", found, "remove them from one of the two")]


def labels_alike(train: Sequence[EncodedExample], evaluation: Sequence[EncodedExample]) -> list[Fault]:
    """Splits in which every row has the same answer, or the right choice under the same number, whatever its text."""
    alike = [
        f"all {len(rows):,} {split} rows have {_shared_label(rows)}"
        for split, rows in (("train", train), ("eval", evaluation))
        if len(rows) >= FEW_ROWS and len({_label(row) for row in rows}) == 1
    ]
    advice = "look at the labels of the source, and shuffle choices that were written with the right one first"
    return [Fault("labels_alike", " and ".join(alike), advice)] if alike else []


def answers_cut(
    train: Sequence[EncodedExample],
    evaluation: Sequence[EncodedExample],
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    ends: Sequence[int],
) -> list[Fault]:
    """Answers that generation cannot give whole, and rows that the tokenizer itself cuts.

    `ends` are the EOS tokens, at each of which generating stops (heft.models.endings).
    """
    found, advice = [], []
    generated = [row for row in evaluation if not row.choices]
    too_long = [row for row in generated if _text_tokens(row, ends) > task.max_new_tokens]
    stopped = [row for row in generated if any(stop in written(row, tokenizer) for stop in task.stop)]
    ended = [row for row in generated if set(ends) & set(row.answer[:-1])]
    known = set(map(id, stopped))
    lost = [row for row in generated if id(row) not in known and not can_be_right(task, row, tokenizer)]
    longest = max((_text_tokens(row, ends) for row in too_long), default=0)
    over = f"of more than task.max_new_tokens {task.max_new_tokens}, up to {longest:,} tokens"
    texts = ", ".join(map(repr, task.stop))
    lacking = "that the tokenizer lacks tokens for: it can never be given"
    for rows, what, remedy in (
        (ended, "with the EOS token inside, where generating stops", "take the EOS token out of answers"),
        (too_long, over, "raise task.max_new_tokens"),
        (stopped, f"with one of the texts that end it, {texts}", "stop at texts that no answer has"),
        (lost, lacking, "write answers in characters that the model has"),
    ):
        if rows:
            found.append(f"{count(rows, len(evaluation), 'eval')} have an answer {what}, {such_as(rows[0])}")
            advice.append(remedy)
    for split, rows in (("train", train), ("eval", evaluation)):
        if rows and (cut := _cut_by_tokenizer(rows, tokenizer)):
            found.append(f"{count(cut, len(rows), split)} are cut by the tokenizer itself, {such_as(cut[0])}")
            advice.append("turn the tokenizer's truncation off")
    return [Fault("answers_cut", "; ".join(found), " and ".join(dict.fromkeys(advice)))] if found else []


def rewritten(evaluation: Sequence[EncodedExample], task: Task, tokenizer: PreTrainedTokenizerBase) -> str:
    """How many answers the tokenizer gives back as another text that counts, in words; empty where there is none."""
    there = [
        row
        for row in evaluation
        if not row.choices and can_be_right(task, row, tokenizer) and not comes_back(task, row, tokenizer)
    ]
    if not there:
        return ""
    first = there[0]
    return (
        f"answers that the tokenizer gives back as another text, and which are compared as it gives them back:"
        f" {len(there):,} of {len(evaluation):,} eval rows, such as {first.example.answer.strip()!a} as"
        f" {written(first, tokenizer).strip()!a}"
    )


def repeats(split: str, rows: Sequence[EncodedExample]) -> str:
    """How many rows of a split ask what an earlier one asks, in words; empty where none does."""
    again = _surplus(Counter(row.example.asks for row in rows))
    if not again:
        return ""
    same = _surplus(Counter((row.example.asks, plain(row.example.asked[-1])) for row in rows))
    return f"questions asked again: {again:,} of {len(rows):,} {split} rows, {same:,} with the same answer"


def tokens_in_text(split: str, rows: Sequence[EncodedExample], tokenizer: PreTrainedTokenizerBase) -> str:
    """Special tokens that stand as text in some rows of a split, such as `</s>` in HTML, in words; empty without any.

    The model reads such text as the token. What stands in every row is the prompt's own.
    """
    special = {each.content for each in tokenizer.added_tokens_decoder.values() if each.special and each.content}
    if not special:
        return ""
    known = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))
    found: dict[str, list[EncodedExample]] = {}
    for row in rows:
        for token in set(known.findall(_written_by_people(row))):
            found.setdefault(token, []).append(row)
    told = [
        f"{count(there, len(rows), split)} have {token!r}, {such_as(there[0])}"
        for token, there in sorted(found.items())
        if len(there) < len(rows)
    ]
    return f"text that the model reads as a special token: {'; '.join(told)}" if told else ""


def _written_by_people(row: EncodedExample) -> str:
    """The texts of a row, before a chat template."""
    example = row.example
    turns = [example.prompt] if example.turns is None else [content for _, content in example.turns]
    return "\n".join([*turns, *example.choices, example.answer])


def _surplus(counts: Counter) -> int:
    return counts.total() - len(counts)


def _label(row: EncodedExample) -> int | str:
    return row.example.gold if row.example.choices else plain(row.example.answer)


def _shared_label(rows: Sequence[EncodedExample]) -> str:
    first = rows[0].example
    if first.choices and len({plain(row.example.answer) for row in rows}) > 1:
        return f"the right choice as number {first.gold + 1}"
    return f"the answer {show(first.answer)}"


def _answered(row: EncodedExample) -> tuple[str, str]:
    question, _, answer = row.example.asked
    return folded(question), folded(answer)


def _text_tokens(row: EncodedExample, ends: Sequence[int]) -> int:
    """Tokens of an answer without its EOS token, which need not be generated."""
    return len(row.answer) - (row.answer[-1:] != () and row.answer[-1] in ends)


def _cut_by_tokenizer(rows: Sequence[EncodedExample], tokenizer: PreTrainedTokenizerBase) -> list[EncodedExample]:
    """Rows of which the tokenizer drops a part: those with as many tokens as the longest, if more text gives no more.

    (transformers' own tokenizers cut only when asked to; one that comes with a model's code may not wait for that.)
    """

    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    cut = {}
    for size, text in (
        (lambda row: len(row.prompt) + row.cut, lambda row: row.example.prompt),
        (lambda row: len(row.answer), lambda row: row.example.answer),
    ):
        longest = max(rows, key=size)
        if 0 < tokens(text(longest)) >= tokens(8 * f"{text(longest)} and so on"):
            cut |= {id(row): row for row in rows if size(row) >= size(longest)}
    return list(cut.values())
