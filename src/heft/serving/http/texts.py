"""`/v1/completions` and `/v1/chat/completions`, at once or as a stream."""

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence

from fastapi import Request
from fastapi.responses import StreamingResponse

from heft.models.endings import text_of
from heft.serving.engine import Engine
from heft.serving.http.asking import Asking
from heft.serving.http.errors import ApiError, error_body
from heft.serving.http.schemas import ChatRequest, CompletionRequest, Sampling
from heft.serving.http.wording import Wording, chat_logprobs, legacy_logprobs
from heft.serving.requests import Chosen, Event, Finished, Generation, Piece, Scoring
from heft.serving.texts import Spelling


class Texts:
    """Answers text requests."""

    def __init__(self, engine: Engine, wording: Wording):
        self._engine, self._wording = engine, wording

    async def complete(self, body: CompletionRequest, request: Request):
        """`/v1/completions`."""
        served = self._wording.find(body.model)
        prompts = self._wording.prompts(body)
        if body.max_tokens == 0 and not body.echo:
            raise ApiError(400, "max_tokens is 0, which leaves nothing to do without echo", "max_tokens")
        if body.prompt_length is not None and not body.echo:
            raise ApiError(400, "prompt_length goes with echo", "prompt_length")
        if body.echo and body.stream:
            raise ApiError(400, "echo does not go with stream", "echo")
        most = self._most(body.max_tokens, prompts)
        work = self._wording.generations(body, served, prompts, most, body.logprobs, body.prompt_length)
        if body.stream:
            return self._stream(_Legacy(self._wording, body, prompts), work)
        heads: list[Scoring] = []
        if body.echo and body.logprobs is not None:
            heads = [self._of_prompt(body, served, prompt) for prompt in prompts if len(prompt) > 1]
        asked = [*heads, *(work if most else [])]
        found = await Asking(self._engine, asked).all(request) if asked else []
        form = _Legacy(self._wording, body, prompts)
        scored = iter(found[: len(heads)])
        form.heads = [_scores(next(scored)) if heads and len(prompt) > 1 else () for prompt in prompts]
        events = found[len(heads) :] if most else [[Finished("length")] for _ in work]
        return form.whole(work, events)

    async def chat(self, body: ChatRequest, request: Request):
        """`/v1/chat/completions`."""
        served = self._wording.find(body.model)
        if body.max_tokens is not None and body.max_completion_tokens is not None:
            raise ApiError(400, "give max_completion_tokens or max_tokens, not both", "max_tokens")
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs goes with logprobs: true", "top_logprobs")
        prompts = [self._wording.chat_prompt(body, served)]
        self._wording.require_count(body.n)
        top = (body.top_logprobs or 0) if body.logprobs else None
        most = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
        work = self._wording.generations(body, served, prompts, most, top)
        form = _Chat(self._wording, body, prompts)
        if body.stream:
            return self._stream(form, work)
        return form.whole(work, await Asking(self._engine, work).all(request))

    def _most(self, given: int | None, prompts: Sequence[tuple[int, ...]]) -> int:
        if given is not None:
            return given
        return self._wording.room(max(map(len, prompts)))

    def _of_prompt(self, body: CompletionRequest, served, prompt: tuple[int, ...]) -> Scoring:
        return Scoring(
            served=served,
            prompt=prompt[:1],
            seconds=self._wording.limits.seconds,
            top=body.logprobs,
            continuations=(prompt[1:],),
            prompt_length=len(prompt) if body.prompt_length is None else body.prompt_length,
        )

    def _stream(self, form: "_Form", work: Sequence[Generation]) -> StreamingResponse:
        asking = Asking(self._engine, work)  # before the first byte, so that a full queue has its own status
        return StreamingResponse(self._chunks(form, asking, work), media_type="text/event-stream")

    async def _chunks(self, form: "_Form", asking: Asking, work: Sequence[Generation]) -> AsyncIterator[str]:
        count = 0
        try:
            for index in range(len(work)) if form.opens else ():
                yield _sent(form.chunk(index, opening=True))
            async for index, event in asking.events():
                if isinstance(event, Piece):
                    count += len(event.tokens)
                    yield _sent(form.chunk(index, event))
                else:
                    yield _sent(form.chunk(index, reason=event.reason))
            if form.counts:
                yield _sent({**form.head(), "choices": [], "usage": form.usage(count)})
            yield "data: [DONE]\n\n"
        except ApiError as error:
            yield _sent(error_body(error.status, error.message, error.param, error.code))
        finally:
            asking.cancel()


class _Form(ABC):
    """How answers are written."""

    kind = chunk_kind = prefix = ""
    opens = False

    def __init__(self, wording: Wording, body: Sampling, prompts: Sequence[tuple[int, ...]]):
        self.wording, self.body, self.prompts = wording, body, prompts
        self.id, self.created = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())
        self._spellings = [self.spelling(prompt) for prompt in prompts for _ in range(body.n)]
        self._untold = set(range(len(prompts) * body.n))  # whose prompt ids a stream has still to send

    @property
    def counts(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        options = self.body.stream_options
        return options is not None and options.include_usage

    def head(self, chunk: bool = True) -> dict:
        """What every document begins with."""
        kind = self.chunk_kind if chunk else self.kind
        return {"id": self.id, "object": kind, "created": self.created, "model": self.body.model}

    def usage(self, count: int) -> dict:
        """Counts of tokens."""
        prompt = sum(map(len, self.prompts))
        return {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}

    def whole(self, work: Sequence[Generation], events: Sequence[Sequence[Event]]) -> dict:
        """The document of an answer that is complete."""
        choices, count = [], 0
        for index, found in enumerate(events):
            pieces = [event for event in found if isinstance(event, Piece)]
            tokens = [chosen for piece in pieces for chosen in piece.tokens]
            count += len(tokens)
            text = "".join(piece.text for piece in pieces)
            choice = self.choice(index, text, tokens, found[-1].reason)
            if self.body.return_token_ids:
                choice |= {"prompt_token_ids": list(work[index].prompt), "token_ids": [t.token for t in tokens]}
            choices.append(choice)
        return {**self.head(chunk=False), "choices": choices, "usage": self.usage(count)}

    def chunk(self, index: int, piece: Piece | None = None, reason: str | None = None, opening: bool = False) -> dict:
        """One event of a stream."""
        choice = self.part(index, piece, opening) | {"index": index, "finish_reason": reason}
        if self.body.return_token_ids and index in self._untold:
            self._untold.discard(index)
            choice["prompt_token_ids"] = list(self.prompts[index // self.body.n])
        if self.body.return_token_ids and piece is not None:
            choice["token_ids"] = [chosen.token for chosen in piece.tokens]
        return {**self.head(), "choices": [choice]} | ({"usage": None} if self.counts else {})

    def spelling(self, prompt: Sequence[int]) -> Spelling:
        """What tokens are of a text."""
        return Spelling(self.wording.catalog.tokenizer)

    @abstractmethod
    def choice(self, index: int, text: str, tokens: Sequence[Chosen], reason: str) -> dict:
        """One text of a complete answer."""

    @abstractmethod
    def part(self, index: int, piece: Piece | None, opening: bool) -> dict:
        """More of a text."""


class _Legacy(_Form):
    """`text_completion`."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"
    heads: Sequence[Sequence[Chosen]] = ()

    def spelling(self, prompt: Sequence[int]) -> Spelling:
        return Spelling(self.wording.catalog.tokenizer, not self.body.echo and self.wording.follows(prompt))

    def choice(self, index: int, text: str, tokens: Sequence[Chosen], reason: str) -> dict:
        body, logprobs = self.body, None
        if body.echo:
            prompt = self.prompts[index // body.n]
            given = [body.prompt] if isinstance(body.prompt, str) else body.prompt
            tokenizer = self.wording.catalog.tokenizer
            before = given[index // body.n] if isinstance(given[0], str) else text_of(tokenizer, prompt, ())
            text = before + text
            if body.logprobs is not None:
                heads = self.heads[index // body.n]
                logprobs = legacy_logprobs([prompt[0], *heads, *tokens], self._spellings[index])
        elif body.logprobs is not None:
            logprobs = legacy_logprobs(tokens, self._spellings[index])
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def part(self, index: int, piece: Piece | None, opening: bool) -> dict:
        logprobs = None
        if self.body.logprobs is not None and piece is not None:
            logprobs = legacy_logprobs(piece.tokens, self._spellings[index])
        return {"text": "" if piece is None else piece.text, "logprobs": logprobs}


class _Chat(_Form):
    """`chat.completion`."""

    kind, chunk_kind, prefix, opens = "chat.completion", "chat.completion.chunk", "chatcmpl", True

    def choice(self, index: int, text: str, tokens: Sequence[Chosen], reason: str) -> dict:
        logprobs = chat_logprobs(tokens, self._spellings[index]) if self.body.logprobs else None
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def part(self, index: int, piece: Piece | None, opening: bool) -> dict:
        if opening:
            return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}
        if piece is None:
            return {"delta": {}, "logprobs": None}
        logprobs = chat_logprobs(piece.tokens, self._spellings[index]) if self.body.logprobs else None
        return {"delta": {"content": piece.text}, "logprobs": logprobs}


def _scores(events: Sequence[Event]) -> Sequence[Chosen]:
    """The tokens of a prompt that was scored."""
    return events[-1].scores[0]


def _sent(document: dict) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"
