"""What is checked before a request is read: the API key, and the size of the body as it comes."""

import hmac
import json
from collections.abc import Awaitable, Callable

from heft.serving.http.errors import error_body

_GUARDED = "/v1"


class Guard:
    """ASGI middleware.

    Args:
        app: what is guarded.
        api_key: that `/v1` asks for, as a bearer token; None asks for none.
        most: bytes of a body.
    """

    def __init__(self, app: Callable, api_key: str | None, most: int):
        self._app, self._key, self._most = app, api_key, most

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._key is not None and scope["path"].startswith(_GUARDED) and not self._has_key(headers):
            await _refuse(send, 401, "the API key is missing or wrong: send it as Authorization: Bearer KEY", "api_key")
            return
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._most:
            await self._too_large(send)
            return
        body, more = bytearray(), True
        while more:  # all at once: nothing is begun for a body that turns out to be too large
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._most:
                await self._too_large(send)
                return
        await self._app(scope, _replayed(bytes(body), receive), send)

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        given = headers.get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key.encode())

    async def _too_large(self, send: Callable) -> None:
        await _refuse(send, 413, f"the request is larger than {self._most:,} bytes, or its length is none", "too_large")


def _replayed(body: bytes, receive: Callable) -> Callable[[], Awaitable[dict]]:
    """A `receive` that gives a body that was read already, and then what comes after it."""
    given = False

    async def again() -> dict:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Callable, status: int, message: str, code: str) -> None:
    body = json.dumps(error_body(status, message, code=code)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
