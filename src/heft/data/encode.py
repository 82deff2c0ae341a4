"""Examples → token ids: prompts within the limit, answers, batches that are padded on the left.

Shapes: B rows, T tokens.
"""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from transformers import PreTrainedTokenizerBase

from heft.edits.positions import Positions, longest_tail
from heft.errors import HeftError
from heft.models.chat import REFERENCE_DATE, ChatTemplate, Turns
from heft.tasks.base import TaskSettings
from heft.tasks.example import Example

UNCUT_HEAD = 16
"""Tokens at the start of a prompt that are never cut, whatever the recipe, so that recipes see the same prompts."""
UNCUT = 2**30
"""`max_length` of prompts that are not cut."""
IGNORED = -100
_ROWS_SHOWN = 10
_ANCHORS = ("a", "\n", ":")
"""Texts that an answer is tokenised behind where its tokens behind its own prompt are not the prompt's and its own."""


@dataclass(frozen=True)
class EncodedExample:
    """One example in token ids.

    Attributes:
        example: where it comes from.
        prompt: ids of the prompt, within the limit.
        choices: ids of each choice.
        answer: ids that are trained on after the prompt; ends with an EOS token if the answer is to be generated; none
            where the answer is not known.
        cut: tokens that were taken out of the prompt to fit the limit.
        undated: the prompt with a fixed date, where a chat template writes today's into it; None elsewhere.
    """

    example: Example
    prompt: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]
    answer: tuple[int, ...]
    cut: int
    undated: tuple[int, ...] | None = None

    @property
    def id(self) -> str:
        """Of the example."""
        return self.example.id

    @property
    def group(self) -> str | None:
        """Of the example: equal for those that share a text."""
        return self.example.group

    @cached_property
    def belongs_to(self) -> Hashable:
        """Equal for rows that share a text, or ask the same: not to be parted between training and validation."""
        return self.example.asks if self.group is None else self.group

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.answer)

    @property
    def fingerprint(self) -> str:
        """8 hex digits of the SHA-256 of the prompt's and the choices' ids: equal where the model's input was the same.

        Prompts that differ by the day's date only count as the same.
        """
        prompt = self.prompt if self.undated is None else self.undated
        return hashlib.sha256(repr((prompt, self.choices)).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Encoder:
    """Turns examples into token ids.

    Prompt and answer are tokenised as they stand together, and the answer's ids are those behind the prompt's own.
    Where the two together do not begin with the prompt's ids (a token spans the boundary), the answer's ids are those
    that it has behind the first text of `_ANCHORS` where that does not happen, else those that it has alone.

    Attributes:
        tokenizer: of the base model.
        max_length: most tokens of a prompt with its longest answer.
        chat_template: whether the prompt is wrapped as a user's turn by the tokenizer's chat template.
        positions: what each ReFT adapter edits; these tokens are never cut.
        template_args: what the chat template is handed beside the messages.
        template_date: YYYY-MM-DD that the chat template is given as today's; None for today.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    chat_template: bool = False
    positions: Sequence[Positions] = ()
    template_args: Mapping[str, object] = field(default_factory=dict)
    template_date: str | None = None

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, task: TaskSettings, positions: Sequence[Positions] = ()
    ) -> "Encoder":
        """The encoder of a task's rows."""
        args = (task.max_length, task.chat_template, positions, task.chat_template_args, task.template_date)
        return cls(tokenizer, *args)

    def __call__(self, examples: Sequence[Example]) -> list[EncodedExample]:
        """Encode all.

        Raises:
            HeftError: an answer leaves no room for its prompt, a prompt is shorter than the edited positions, or the
                chat template is missing or at fault.
        """
        encoded = self._encode(examples)
        needed = max((p.shortest_prompt() for p in self.positions), default=0)
        short = [e for e in encoded if len(e.prompt) < max(1, needed)]
        if short:
            worst = min(short, key=lambda e: len(e.prompt))
            if not worst.prompt:
                raise HeftError(
                    f"the tokenizer has no tokens for a prompt: {worst.example.prompt[:80]!r}. Change or remove the row"
                )
            raise HeftError(
                f"{len(short)} of {len(encoded)} prompts are shorter than the {needed} positions that an adapter acts"
                f" on; the shortest has {len(worst.prompt)} tokens: {worst.example.prompt[:80]!r}. Ask for fewer"
                " positions"
            )
        return encoded

    def prompt(self, text: str | Turns) -> list[int]:
        """Ids of a prompt, uncut, with what the tokenizer or the chat template puts around it.

        With a chat template it may be several turns, (role, content) each.

        Raises:
            HeftError: the chat template is missing or at fault.
        """
        return [*self._bos, *self._ids([self._templated(text)])[0]]

    @cached_property
    def chat(self) -> ChatTemplate | None:
        """The chat template as it is used here; None where prompts are not wrapped."""
        return ChatTemplate(self.tokenizer, self.template_args, self.template_date) if self.chat_template else None

    @cached_property
    def answer_end(self) -> int:
        """The EOS token that generated answers are trained to end with: the one that the chat template writes behind
        an answer, where prompts go through it and it writes one, else the tokenizer's."""
        end = None if self.chat is None else self.chat.end
        return self.tokenizer.eos_token_id if end is None else end

    def answer_text(self, example: Example) -> str:
        """The text that is trained on behind the prompt, without an EOS token."""
        if self.chat is None:
            return example.answer
        return self.chat.lead + (example.answer.lstrip() if example.turn is None else example.turn)

    def _continuations(self, example: Example) -> list[str]:
        """The texts that are tokenised behind the prompt: the choices, or the answer where it is known."""
        if example.choices:
            return self._choice_texts(example)
        return [self.answer_text(example)] if example.answered else []

    def _choice_texts(self, example: Example) -> list[str]:
        if self.chat is None:
            return list(example.choices)
        return [self.chat.lead + choice.lstrip() for choice in example.choices]

    def _encode(self, examples: Sequence[Example]) -> list[EncodedExample]:
        starts = [self._templated(_turns_of(example)) for example in examples]
        prompts = self._ids(starts)
        texts = [self._continuations(example) for example in examples]
        whole = iter(self._ids([start + text for start, some in zip(starts, texts, strict=True) for text in some]))
        undated = self._undated(examples)
        encoded = []
        for i, example in enumerate(examples):
            after = tuple(self._behind(prompts[i], next(whole), text) for text in texts[i])
            choices = after if example.choices else ()
            answer = ()
            if example.answered:
                answer = after[example.gold] if example.choices else (*after[0], self.answer_end)
            prompt, fixed = (*self._bos, *prompts[i]), undated and tuple(undated[i])
            encoded.append(EncodedExample(example, prompt, choices, answer, 0, fixed))
        self._require_room(encoded)
        return [self._fitted(row) for row in encoded]

    def _require_room(self, rows: Sequence[EncodedExample]) -> None:
        """Require that every answer leaves room for what is never cut of its prompt.

        Raises:
            HeftError: some do not; all are counted, and the first ten have their lengths and places.
        """
        needs = {id(row): min(len(row.prompt), sum(self._uncut)) + _longest_answer(row) for row in rows}
        long = [row for row in rows if needs[id(row)] > self.max_length]
        if not long:
            return
        worst, (head, tail) = max(long, key=lambda row: needs[id(row)]), self._uncut
        answer = _longest_answer(worst)
        shown = [f"{_where(row)} ({_longest_answer(row):,} tokens)" for row in long[:_ROWS_SHOWN]]
        more = f" and {len(long) - _ROWS_SHOWN:,} more" if len(long) > _ROWS_SHOWN else ""
        raise HeftError(
            f"task.max_length {self.max_length} is too small for {len(long):,} of {len(rows):,} rows: an answer of"
            f" {answer:,} tokens leaves {max(0, self.max_length - answer):,} for the prompt, of which the first {head}"
            f" and the last {tail} are never cut. Set it to {needs[id(worst)]:,} or more, or shorten the answers of"
            f" {', '.join(shown)}{more}"
        )

    def _undated(self, examples: Sequence[Example]) -> list[list[int]] | None:
        """Prompts with a fixed date, where the chat template writes one."""
        if self.chat is None or not self.chat.uses_date:
            return None
        return self._ids([replace(self.chat, date=REFERENCE_DATE).prompt(_turns_of(example)) for example in examples])

    def _templated(self, prompt: str | Turns) -> str:
        if self.chat is not None:
            return self.chat.prompt(prompt)
        if isinstance(prompt, str):
            return prompt
        raise HeftError("turns of a chat need task.chat_template: true")

    def _behind(self, prompt: Sequence[int], whole: Sequence[int], text: str) -> tuple[int, ...]:
        """Ids of a text behind a prompt, from the ids of the prompt and of both together."""
        if whole[: len(prompt)] == prompt:
            return tuple(whole[len(prompt) :])
        for anchor in _ANCHORS:
            before, both = self._ids([anchor, anchor + text])
            if both[: len(before)] == before:
                return tuple(both[len(before) :])
        return tuple(self._ids([text])[0])

    @cached_property
    def _bos(self) -> list[int]:
        """What the tokenizer puts before a text of its own accord; what it puts behind one has no place in a prompt."""
        if self.chat_template:
            return []
        bare = self._ids(["a"])[0]
        dressed = self.tokenizer("a")["input_ids"]
        starts = (i for i in range(len(dressed)) if dressed[i : i + len(bare)] == bare)
        return dressed[: next(starts, 0)]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []

    @cached_property
    def _uncut(self) -> tuple[int, int]:
        """How many tokens at a prompt's start and at its end are never cut."""
        return uncut_head(self.positions), max(1, longest_tail(self.positions))

    def _fitted(self, row: EncodedExample) -> EncodedExample:
        """A row with a prompt within the limit."""
        limit = self.max_length - _longest_answer(row)
        prompt, undated = self._shorten(row.prompt, limit), row.undated and self._shorten(row.undated, limit)
        return replace(row, prompt=prompt, undated=undated, cut=len(row.prompt) - len(prompt))

    def _shorten(self, prompt: tuple[int, ...], limit: int) -> tuple[int, ...]:
        """Cut behind the head, where a passage is long; the question at the end stays whole."""
        head = self._uncut[0]
        return prompt if len(prompt) <= limit else prompt[:head] + prompt[len(prompt) - (limit - head) :]


def _longest_answer(row: EncodedExample) -> int:
    return max(map(len, (row.answer, *row.choices)))


def _where(row: EncodedExample) -> str:
    return row.example.place or repr(row.example.answer[:80])


def uncut_head(positions: Sequence[Positions]) -> int:
    """How many tokens at a prompt's start are never cut, where adapters edit these positions."""
    return max([UNCUT_HEAD, *(p.protected_head() for p in positions)])


def left_pad(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `position_ids` (B, T) of rows padded on the left.

    Positions are counted over real tokens, so a row's result does not depend on its padding in any architecture.
    """
    ids_BT = _on_the_left(rows, pad_id)
    mask_BT = _on_the_left([[1] * len(row) for row in rows], 0)
    batch = {"input_ids": ids_BT, "attention_mask": mask_BT, "position_ids": (mask_BT.cumsum(1) - 1).clamp(min=0)}
    return {key: value.to(device) for key, value in batch.items()}


def _turns_of(example: Example) -> str | Turns:
    return example.prompt if example.turns is None else example.turns


def _on_the_left(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Rows as one tensor (B, T), each behind as many of a value as it is shorter than the longest."""
    longest = max(map(len, rows))
    return torch.tensor([[value] * (longest - len(row)) + list(row) for row in rows], dtype=torch.long)


def training_batch(rows: Sequence[EncodedExample], pad_id: int) -> dict[str, torch.Tensor]:
    """`left_pad` of prompts with answers, and `labels` (B, T; −100 but on the answer) and `prompt_lengths` (B,)."""
    batch = left_pad([row.prompt + row.answer for row in rows], pad_id)
    batch["labels"] = _on_the_left([[IGNORED] * len(row.prompt) + [*row.answer] for row in rows], IGNORED)
    batch["prompt_lengths"] = torch.tensor([len(row.prompt) for row in rows])
    return batch
