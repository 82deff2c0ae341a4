"""Requests in words → requests in tokens, and back."""

from collections.abc import Sequence
from dataclasses import dataclass

from heft.data.encode import UNCUT, Encoder
from heft.errors import HeftError
from heft.models.limits import require_room
from heft.serving.catalog import Catalog, Served
from heft.serving.http.errors import ApiError
from heft.serving.http.schemas import ChatRequest, CompletionRequest, Sampling
from heft.serving.limits import Limits
from heft.serving.requests import Chosen, Generation

CHAT_TOKENS = 512
"""Generated at most where a chat does not say."""


@dataclass(frozen=True)
class Wording:
    """The words of one catalog, within limits."""

    catalog: Catalog
    limits: Limits

    def find(self, name: str) -> Served:
        """What a request names.

        Raises:
            ApiError: 404, nothing has that name.
        """
        served = self.catalog.find(name)
        if served is None:
            known = ", ".join(list(self.catalog.served)[:20])
            raise ApiError(
                404, f"the model {name[:200]!r} does not exist; there are: {known}", "model", "model_not_found"
            )
        return served

    def prompts(self, request: CompletionRequest) -> list[tuple[int, ...]]:
        """Token ids of the prompts of a completion.

        Raises:
            ApiError: there are too many.
        """
        given = request.prompt
        if isinstance(given, str) or isinstance(given[0], int):
            given = [given]
        self.require_count(len(given) * request.n)
        plain = Encoder(self.catalog.tokenizer, UNCUT)
        found = [tuple(plain.prompt(each) if isinstance(each, str) else each) for each in given]
        if not all(found):
            raise ApiError(400, "a prompt has no tokens; give some text", "prompt")
        return found

    def chat_prompt(self, request: ChatRequest, served: Served) -> tuple[int, ...]:
        """Token ids of a chat, through the chat template as the adapter was trained with it."""
        turns = [(message.role, message.text) for message in request.messages]
        try:
            return tuple(served.chat.prompt(turns))
        except HeftError as error:
            raise ApiError(400, str(error).replace("task.chat_template is true, but ", ""), "messages") from None

    def generations(
        self, request: Sampling, served: Served, prompts: Sequence[tuple[int, ...]], most: int | None, top: int | None
    ) -> list[Generation]:
        """`n` requests to the engine for each prompt.

        Raises:
            ApiError: a prompt, or what is to follow it, is too long.
        """
        for prompt in prompts:
            self.require_room(prompt, most if most is not None else 1)
        stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
        return [
            Generation(
                served=served,
                prompt=prompt,
                seconds=self.limits.seconds,
                top=top,
                max_tokens=most if most is not None else min(CHAT_TOKENS, self.room(len(prompt))),
                temperature=request.temperature,
                top_p=request.top_p,
                seed=None if request.seed is None else request.seed + number,
                stop=stop,
                ignore_ends=request.ignore_eos,
                wants_pieces=request.stream,
            )
            for prompt in prompts
            for number in range(request.n)
        ]

    def require_count(self, count: int) -> None:
        """Require that a request asks for no more texts than it may."""
        if count > self.limits.prompts:
            raise ApiError(400, f"{count} prompts in one request; the server takes {self.limits.prompts}", "prompt")

    def room(self, tokens: int) -> int:
        """How many tokens may follow a prompt of so many, 1 at least."""
        limits = self.catalog.limits
        most = min(self.limits.tokens, limits.positions + 1) if limits.learned else self.limits.tokens
        return max(1, most - tokens)  # the last one is never read, and so needs no position

    def require_room(self, ids: Sequence[int], more: int) -> None:
        """Require that a prompt and what follows it are within the limit, and that the model has embeddings for it."""
        if len(ids) + more > self.limits.tokens:
            raise ApiError(
                400,
                f"the prompt has {len(ids):,} tokens and {more:,} are to follow it; the server takes"
                f" {self.limits.tokens:,} together",
                "max_tokens",
                "context_length_exceeded",
            )
        try:
            require_room(self.catalog.limits, ids, max(1, more))
        except HeftError as error:
            raise ApiError(400, str(error), "prompt") from None

    def text(self, token: int) -> str:
        """The text of one token alone; a part of a character shows as U+FFFD."""
        return self.catalog.tokenizer.decode([token])

    def legacy_logprobs(self, tokens: Sequence[Chosen | int], start: int = 0) -> dict:
        """As `/v1/completions` has them; an id alone is a first token, which has no log-probability."""
        texts = [self.text(each if isinstance(each, int) else each.token) for each in tokens]
        offsets = [start + sum(map(len, texts[:n])) for n in range(len(texts))]
        return {
            "tokens": texts,
            "token_logprobs": [None if isinstance(each, int) else each.log_probability for each in tokens],
            "top_logprobs": [None if isinstance(each, int) else self._top(each) for each in tokens],
            "text_offset": offsets,
        }

    def _top(self, chosen: Chosen) -> dict[str, float]:
        found = {self.text(token): value for token, value in reversed(chosen.top)}  # the likeliest of equal texts stays
        return found or {self.text(chosen.token): chosen.log_probability}

    def chat_logprobs(self, tokens: Sequence[Chosen]) -> dict:
        """As `/v1/chat/completions` has them."""
        return {"content": [{**self._entry(t.token, t.log_probability), "top_logprobs": self._tops(t)} for t in tokens]}

    def _tops(self, chosen: Chosen) -> list[dict]:
        return [self._entry(token, value) for token, value in chosen.top]

    def _entry(self, token: int, value: float) -> dict:
        text = self.text(token)
        return {"token": text, "logprob": value, "bytes": list(text.encode())}
