"""Requests in words → requests in tokens, and back."""

from collections.abc import Sequence
from dataclasses import dataclass

from heft.data.encode import UNCUT, Encoder
from heft.errors import HeftError
from heft.models.endings import no_text
from heft.models.limits import require_room
from heft.serving.catalog import Catalog, Served
from heft.serving.http.errors import ApiError
from heft.serving.http.schemas import ChatRequest, CompletionRequest, Sampling
from heft.serving.limits import Limits
from heft.serving.requests import Chosen, Generation
from heft.serving.texts import Spelling

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
        self,
        request: Sampling,
        served: Served,
        prompts: Sequence[tuple[int, ...]],
        most: int | None,
        top: int | None,
        length: int | None = None,
    ) -> list[Generation]:
        """`n` requests to the engine for each prompt; `length` is the `prompt_length` that the client gave.

        Raises:
            ApiError: a prompt, or what is to follow it, is too long; or a field has no effect here.
        """
        if request.stream_options is not None and not request.stream:
            raise ApiError(400, "stream_options goes with stream: true", "stream_options")
        for prompt in prompts:
            if length is not None and length > len(prompt):
                message = f"prompt_length is {length}, and the prompt has {len(prompt)} tokens"
                raise ApiError(400, message, "prompt_length")
            self.require_room(prompt, most if most is not None else 1)
        stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
        return [
            Generation(
                served=served,
                prompt=prompt,
                prompt_length=length,
                seconds=self.limits.seconds,
                top=top,
                max_tokens=most if most is not None else min(CHAT_TOKENS, self.room(len(prompt))),
                temperature=request.temperature,
                top_p=request.top_p,
                seed=None if request.seed is None else request.seed + number,
                stop=stop,
                ignore_ends=request.ignore_eos,
                wants_pieces=request.stream,
                follows=isinstance(request, CompletionRequest) and self.follows(prompt),
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
        return max(1, self.limits.tokens_of(self.catalog.limits) - tokens)

    def require_room(self, ids: Sequence[int], more: int) -> None:
        """Require that a prompt and what follows it are within the limit, and that the model has embeddings for it."""
        most = self.limits.tokens_of(self.catalog.limits)
        if len(ids) + more > most:
            raise ApiError(
                400,
                f"the prompt has {len(ids):,} tokens and {more:,} are to follow it; the server takes {most:,} together",
                "max_tokens",
                "context_length_exceeded",
            )
        try:
            require_room(self.catalog.limits, ids, max(1, more))
        except HeftError as error:
            raise ApiError(400, str(error), "prompt") from None

    def follows(self, prompt: Sequence[int]) -> bool:
        """Whether a completion has a text before it."""
        return bool(set(prompt) - no_text(self.catalog.tokenizer))


def legacy_logprobs(tokens: Sequence[Chosen | int], spelling: Spelling) -> dict:
    """As `/v1/completions` has them; an id alone is a first token, which has no log-probability."""
    found: dict[str, list] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for each in tokens:
        is_first = isinstance(each, int)
        token = each if is_first else each.token
        found["tokens"].append(spelling.of(token)[0])
        found["token_logprobs"].append(None if is_first else each.log_probability)
        found["top_logprobs"].append(None if is_first else _top(each, spelling))
        found["text_offset"].append(spelling.add(token))
    return found


def _top(chosen: Chosen, spelling: Spelling) -> dict[str, float]:
    """The likeliest tokens, and the chosen one where it is none of them; of equal texts the likeliest stays."""
    found = {spelling.of(token)[0]: value for token, value in reversed(chosen.top)}
    found.setdefault(spelling.of(chosen.token)[0], chosen.log_probability)
    return found


def chat_logprobs(tokens: Sequence[Chosen], spelling: Spelling) -> dict:
    """As `/v1/chat/completions` has them."""
    content = []
    for each in tokens:
        tops = [_entry(token, value, spelling) for token, value in each.top]
        content.append({**_entry(each.token, each.log_probability, spelling), "top_logprobs": tops})
        spelling.add(each.token)
    return {"content": content}


def _entry(token: int, value: float, spelling: Spelling) -> dict:
    text, own = spelling.of(token)
    return {"token": text, "logprob": value, "bytes": None if own is None else list(own)}
