"""Requests to the Hub: with a time limit, tried again where that may help, and errors in words. Needs no torch."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from heft.errors import HeftError

WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further try."""
TIMEOUT = 30.0
"""Seconds that the Hub has for a piece of an answer; huggingface_hub sets no limit itself."""
_PASSING = (408, 429, 500, 502, 503, 504)

_Result = TypeVar("_Result")


def asked(
    request: Callable[[], _Result], of: str, otherwise: str, notice: Callable[[str], None] = lambda text: None
) -> _Result:
    """What a request to the Hub gives; it is tried again after an answer of 5xx or none, so twice must be as once.

    Args:
        request: asks huggingface_hub for something.
        of: the repository, for messages.
        otherwise: what was done or not, and what else to do where the Hub cannot be reached.
        notice: hears of each further try.

    Raises:
        HeftError: it failed, and why in words.
    """
    for wait in (*WAITS, None):
        try:
            with _time_limit():
                return request()
        except Exception as error:
            if wait is None or not _may_pass(error):
                known = in_words(error, of, otherwise)
                if known is None:
                    raise
                raise HeftError(known) from error
            notice(f"the Hub answered {_answer(error)}; trying again in {wait:g} s")
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def in_words(error: Exception, of: str, otherwise: str) -> str | None:
    """Why a request failed and what to do; None for an error that has nothing to do with the Hub."""
    from huggingface_hub import constants, errors

    status = _status(error)
    if isinstance(error, errors.OfflineModeIsEnabled) or isinstance(error.__cause__, errors.OfflineModeIsEnabled):
        return f"{of}: HF_HUB_OFFLINE is set, so the Hub is not asked: unset it; {otherwise}"
    if isinstance(error, errors.HFValidationError):
        return f"{of!r} is no name of a repository; expected ORG/NAME"
    if isinstance(error, errors.GatedRepoError):
        return f"{of} is gated: accept its terms on its Hub page, then `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{of} has no such revision: give a branch, a tag or a commit that it has"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"{of}: there is no token: `hf auth login`, or set HF_TOKEN"
    if status == 401:
        return (
            f"{of}: the Hub does not know you, or knows of no such repository that you may see: `hf auth login`, or set"
            " HF_TOKEN to a token that may do this (https://huggingface.co/settings/tokens)"
        )
    if status == 403:
        return (
            f"{of} is not yours to write, or your token may only read: give a repository of yours or of an organisation"
            " that you may write in, and a token with the right to write (`hf auth login`)"
        )
    if status == 404:
        return f"{of} is not on the Hub, or is private and your token may not see it (`hf auth whoami`)"
    if _may_pass(error):
        tries = len(WAITS) + 1
        return f"{of}: the Hub ({constants.ENDPOINT}) answered {_answer(error)}, {tries} times; {otherwise}"
    if isinstance(error, errors.HfHubHTTPError):
        return f"{of}: the Hub refused it: {_first_line(error)}"
    return None


@contextmanager
def _time_limit() -> Iterator[None]:
    """Give the client of huggingface_hub a time limit while this is open, where it has none."""
    from huggingface_hub import get_session

    client = get_session()
    before = client.timeout
    client.timeout = TIMEOUT
    try:
        yield
    finally:
        client.timeout = before


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _may_pass(error: BaseException | None) -> bool:
    """Whether a request may succeed when it is made again."""
    from huggingface_hub import errors

    if error is None or isinstance(error, errors.OfflineModeIsEnabled):
        return False
    if isinstance(error, errors.LocalEntryNotFoundError):  # of a download, which tells in its cause what happened
        return _may_pass(error.__cause__)
    if _status(error) is not None:
        return _status(error) in _PASSING
    return type(error).__module__.startswith("httpx")


def _answer(error: BaseException) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return f"with status {_status(error)}" if _status(error) else f"nothing ({type(error).__name__})"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
