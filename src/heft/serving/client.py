"""A client of a server that `heft serve` runs, or vLLM with heft's plugin. Needs no torch and no extra."""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from heft.errors import HeftError
from heft.serving.limits import Limits

KEY = "HEFT_API_KEY"
"""The environment variable with the API key, of server and client alike."""
_AT_ONCE = 8
_TRIES = 60
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class ServerClient:
    """A server, and the model there that is asked.

    Attributes:
        url: such as http://127.0.0.1:8000, with or without /v1.
        model: a name of its `/v1/models`.
        seconds: to wait for an answer.
    """

    url: str
    model: str
    seconds: float = 600.0

    def names(self) -> list[str]:
        """What the server can be asked for.

        Raises:
            HeftError: no server answers there, or it wants another key.
        """
        return [each["id"] for each in self._ask("models", None)["data"]]

    def require_model(self) -> None:
        """Require that the server has the model; a HeftError names what there is."""
        found = self.names()
        if self.model not in found:
            raise HeftError(
                f"the server at {self.url} has no model {self.model!r}; it has {', '.join(found[:20])}. Name one with"
                " --served-model-name"
            )

    def log_likelihoods(
        self,
        questions: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]],
        batch_size: int = 16,
        on_done: Callable[[int], None] = lambda done: None,
    ) -> list[list[float]]:
        """ln p of each choice of each question, both as token ids; in order.

        Raises:
            HeftError: the server refuses a question, or does not answer.
        """

        if self._is_vllm():
            return self._in_parts(lambda part: [self._scored(*each) for each in part], questions, 1, on_done)

        def run(part: Sequence) -> list[list[float]]:
            given = [{"prompt_ids": list(p), "choice_ids": [list(c) for c in choices]} for p, choices in part]
            data = self._ask("classify", {"model": self.model, "input": given})["data"]
            return [each["log_likelihoods"] for each in data]

        return self._in_parts(run, questions, batch_size, on_done)

    def texts(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        stop: Sequence[str] = (),
        batch_size: int = 16,
        on_done: Callable[[int], None] = lambda done: None,
        ignore_eos: bool = False,
    ) -> list[dict[str, Any]]:
        """Greedy texts: for each prompt what `/v1/completions` gives, `text`, `finish_reason` and `token_ids` among it.

        Raises:
            HeftError: the server refuses a prompt, or does not answer.
        """

        def run(part: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
            body = {"model": self.model, "prompt": [list(ids) for ids in part], "max_tokens": max_tokens}
            body |= {"temperature": 0, "return_token_ids": True, "ignore_eos": ignore_eos, "stop": list(stop) or None}
            return self._ask("completions", body)["choices"]

        return self._in_parts(run, prompts, batch_size, on_done)

    def _is_vllm(self) -> bool:
        return any(each.get("owned_by") == "vllm" for each in self._ask("models", None)["data"])

    def _scored(self, prompt: Sequence[int], choices: Sequence[Sequence[int]]) -> list[float]:
        """ln p of a prompt's choices, as vLLM gives it: of tokens that are part of what it calls the prompt."""
        body = {"model": self.model, "prompt": [[*prompt, *choice] for choice in choices], "max_tokens": 1}
        body |= {"temperature": 0, "prompt_logprobs": 0, "vllm_xargs": {"prompt_length": len(prompt)}}
        found = []
        for choice, each in zip(choices, self._ask("completions", body)["choices"], strict=True):
            behind = each["prompt_logprobs"][len(prompt) :]
            found.append(sum(there[str(token)]["logprob"] for there, token in zip(behind, choice, strict=True)))
        return found

    def _in_parts(
        self, run: Callable[[Sequence], list], items: Sequence[_Item], size: int, on_done: Callable[[int], None]
    ) -> list:
        size = min(size, Limits.prompts)  # what a server takes unless it was told otherwise
        parts, done = [items[i : i + size] for i in range(0, len(items), size)], 0
        found: list = []
        pool = ThreadPoolExecutor(min(_AT_ONCE, Limits.queue // size))
        try:
            for part, result in zip(parts, pool.map(run, parts), strict=True):
                found += result
                done += len(part)
                on_done(done)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return found

    def _ask(self, path: str, body: dict | None) -> dict[str, Any]:
        root = self.url.rstrip("/").removesuffix("/v1")
        data = None if body is None else json.dumps(body).encode()
        for _ in range(_TRIES):
            try:
                request = urllib.request.Request(f"{root}/v1/{path}", data, {"Content-Type": "application/json"})
                if os.environ.get(KEY):  # not for where a redirect leads
                    request.add_unredirected_header("Authorization", f"Bearer {os.environ[KEY]}")
                with urllib.request.urlopen(request, timeout=self.seconds) as response:
                    return json.loads(response.read())
            except urllib.error.HTTPError as error:
                if error.code != 429:
                    raise HeftError(f"the server at {self.url} answers {error.code}: {_message(error)}") from None
                time.sleep(_seconds(error.headers.get("Retry-After")))
            except TimeoutError:
                raise HeftError(
                    f"the server at {self.url} did not answer within {self.seconds:g} seconds; ask for less at once, or"
                    " when it has less to do"
                ) from None
            except (OSError, ValueError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                raise HeftError(
                    f"no server of heft answers at {self.url}: {reason}; start one with `heft serve`"
                ) from None
        raise HeftError(f"the server at {self.url} is full (429), and was after {_TRIES} tries; ask again later")


def _seconds(retry_after: str | None) -> float:
    """Seconds of the header Retry-After; 1 where it has none, or a date."""
    return float(retry_after) if retry_after is not None and retry_after.isdigit() else 1.0


def _message(error: urllib.error.HTTPError) -> str:
    """What the server says is wrong."""
    try:
        return json.loads(error.read())["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return error.reason
