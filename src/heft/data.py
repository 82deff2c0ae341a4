"""Examples → token ids: prompts within the limit, answers, batches that are padded on the left.

Shapes: B rows, T tokens.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from heft.errors import HeftError
from heft.reft.settings import Positions
from heft.tasks.base import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT_HEAD = 16
"""Tokens at the start of a prompt that are never cut, whatever the recipe, so that recipes see the same prompts."""
IGNORED = -100


@dataclass(frozen=True)
class EncodedExample:
    """One example in token ids.

    Attributes:
        example: where it comes from.
        prompt: ids of the prompt, within the limit.
        choices: ids of each choice.
        answer: ids that are trained on after the prompt; ends with the end token if the answer is to be generated.
        cut: tokens that were taken out of the prompt to keep to the limit.
    """

    example: Example
    prompt: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]
    answer: tuple[int, ...]
    cut: int

    @property
    def fingerprint(self) -> str:
        """8 hex digits of the SHA-256 of the prompt's and the choices' ids: equal where a model was asked the same."""
        return hashlib.sha256(repr((self.prompt, self.choices)).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Encoder:
    """Turns examples into token ids.

    Attributes:
        tokenizer: of the base model.
        max_length: most tokens of a prompt with its longest answer.
        chat_template: whether the prompt is wrapped as a user's turn by the tokenizer's chat template.
        positions: what each ReFT adapter edits; these tokens are never cut.
    """

    tokenizer: "PreTrainedTokenizerBase"
    max_length: int
    chat_template: bool = False
    positions: Sequence[Positions] = ()

    def __call__(self, examples: Sequence[Example]) -> list[EncodedExample]:
        """Encode all.

        Raises:
            HeftError: an answer leaves no room for its prompt, a prompt is shorter than the edited positions, or the
                chat template is missing or at fault.
        """
        encoded = [self._encode(example) for example in examples]
        needed = max((p.needed for p in self.positions), default=0)
        short = [e for e in encoded if len(e.prompt) < max(1, needed)]
        if short:
            worst = min(short, key=lambda e: len(e.prompt))
            if not worst.prompt:
                raise HeftError(
                    f"the tokenizer has no tokens for a prompt: {worst.example.prompt[:80]!r}. Change or remove the row"
                )
            raise HeftError(
                f"{len(short)} of {len(encoded)} prompts are shorter than the {needed} positions that ReFT edits; the"
                f" shortest has {len(worst.prompt)} tokens: {worst.example.prompt[:80]!r}. Ask for fewer positions"
            )
        return encoded

    def prompt(self, text: str) -> list[int]:
        """Ids of a prompt, uncut, with what the tokenizer or the chat template puts around it.

        Raises:
            HeftError: the chat template is missing or at fault.
        """
        text = self._as_turn(text) if self.chat_template else text
        return self.tokenizer(text, add_special_tokens=not self.chat_template)["input_ids"]

    def _encode(self, example: Example) -> EncodedExample:
        follow = str.lstrip if self.chat_template else str
        prompt = self.prompt(example.prompt)
        choices = tuple(self._continuation(follow(choice)) for choice in example.choices)
        answer = self._continuation(follow(example.answer))
        if not choices:
            answer += (self.tokenizer.eos_token_id,)
        kept = self._shorten(prompt, max(map(len, (answer, *choices))), example)
        return EncodedExample(example, tuple(kept), choices, answer, len(prompt) - len(kept))

    def _continuation(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _as_turn(self, prompt: str) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            raise HeftError(
                "task.chat_template is true, but this model's tokenizer has no chat template; set it to false"
            )
        turn = [{"role": "user", "content": prompt}]
        try:
            return self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program that came with the model, and may raise anything
            reason = str(error).strip().splitlines()[:1] or ["no message"]
            raise HeftError(
                f"the chat template of this model's tokenizer cannot wrap a user's turn: {type(error).__name__}:"
                f" {reason[0]}. Mend chat_template.jinja (or tokenizer_config.json) in a copy of the model, or set"
                f" task.chat_template to false; the prompt was {prompt[:80]!r}"
            ) from error

    def _shorten(self, prompt: list[int], longest_answer: int, example: Example) -> list[int]:
        """Cut behind the head, where a passage is long; the question at the end stays whole."""
        limit = self.max_length - longest_answer
        if len(prompt) <= limit:
            return prompt
        head = max([KEPT_HEAD, *(p.first for p in self.positions)])
        tail = max([1, *(p.last for p in self.positions)])
        if limit < head + tail:
            raise HeftError(
                f"task.max_length {self.max_length} is too small: an answer of {longest_answer} tokens leaves {limit}"
                f" for the prompt, of which the first {head} and the last {tail} are never cut: {example.answer[:80]!r}"
            )
        return prompt[:head] + prompt[len(prompt) - (limit - head) :]


def left_pad(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `position_ids` (B, T) of rows padded on the left.

    Positions are counted over real tokens, so a row's result does not depend on its padding in any architecture.
    """
    width = max(map(len, rows))
    ids_BT = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask_BT = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids_BT[i, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask_BT[i, width - len(row) :] = 1
    return {
        "input_ids": ids_BT,
        "attention_mask": mask_BT,
        "position_ids": (mask_BT.cumsum(1) - 1).clamp(min=0),
    }


def training_batch(rows: Sequence[EncodedExample], pad_id: int) -> dict[str, torch.Tensor]:
    """`left_pad` of prompts with answers, and `labels` (B, T; −100 but on the answer) and `prompt_lengths` (B,)."""
    batch = left_pad([row.prompt + row.answer for row in rows], pad_id)
    batch["labels"] = torch.full_like(batch["input_ids"], IGNORED)
    width = batch["labels"].shape[1]
    for i, row in enumerate(rows):
        batch["labels"][i, width - len(row.answer) :] = torch.tensor(row.answer, dtype=torch.long)
    batch["prompt_lengths"] = torch.tensor([len(row.prompt) for row in rows])
    return batch
