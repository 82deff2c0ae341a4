"""From adapter directories to a server that listens, and to its orderly end."""

import asyncio
import math
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import uvicorn

from heft.adapters.manifest import base_settings, read_manifest
from heft.adapters.places import adapter_directory, own_name
from heft.errors import HeftError
from heft.models.load import load_base
from heft.recipe.files import model_request
from heft.serving.catalog import Catalog
from heft.serving.engine import Engine
from heft.serving.http.app import Access, build_app
from heft.serving.limits import Limits

LAST_WORDS = 5
"""Seconds, beyond those of the draining, in which requests that it has cut short are told so."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def named(given: Sequence[str]) -> dict[str, str]:
    """Directories by the names to ask for them: `NAME=DIR`, or `DIR` by its run's own.

    Raises:
        HeftError: two have one name.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, directory = text.partition("=")
        if not equals or "/" in name or Path(text).exists():
            name, directory = own_name(adapter_directory(text)), text
        if name in found:
            raise HeftError(f"two directories would be named {name!r}: {found[name]} and {directory}; give NAME=DIR")
        found[name] = directory
    return found


def open_engine(
    given: Sequence[str],
    limits: Limits,
    overrides: Sequence[str] = (),
    base: str | None = None,
    trust_remote_code: bool = False,
    mixes: bool = True,
    fast: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> Engine:
    """An engine, not yet started, on the base model that adapter directories share, or on a base model alone.

    Args:
        given: `DIR` or `NAME=DIR` of each; a base model alone where none is given.
        limits: of the server.
        overrides: `model.KEY=value`, such as model.device=cuda.
        base: folder or Hub id of the base model, where it has moved, or where it is all that is served.
        trust_remote_code: whether code that comes with the base model may run.
        mixes: whether requests for different adapters share passes.
        fast: whether faster ways are taken where they give the same.
        note: told, in words, where they are not.

    Raises:
        HeftError: there is nothing to serve, or a directory cannot be read or is of another base model.
    """
    directories = named(given)
    if directories:
        first = adapter_directory(next(iter(directories.values())))
        settings = base_settings(first, read_manifest(first), trust_remote_code, base).model_dump()
    elif base is not None:
        settings = {"name": base, **({"trust_remote_code": True} if trust_remote_code else {})}
    else:
        raise HeftError("there is nothing to serve: give runs or adapter directories, or a base model with --base")
    request = model_request({"model": settings, "evaluation": {}}, overrides)
    catalog = Catalog(load_base(request.model), mixes)
    for name, directory in directories.items():
        catalog.load(directory, name)
    return Engine(catalog, limits, fast, note)


def serve(
    engine: Engine,
    host: str,
    port: int,
    access: Access,
    drain: float,
    say: Callable[[str], None],
) -> None:
    """Answer until SIGINT or SIGTERM; then take no more, finish what runs for `drain` seconds at most, and return.

    Raises:
        HeftError: the address is taken, or is none of this machine.
    """
    listening = listen(host, port)
    address = listening.getsockname()
    engine.start()
    config = uvicorn.Config(
        build_app(engine, access),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(drain) + LAST_WORDS,
        timeout_keep_alive=30,
        lifespan="off",
    )
    before = _without_default_ends()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    say(f"serving {', '.join(engine.catalog.served)} on http://{shown}:{address[1]}")
    try:
        _Server(config, engine, drain).run(sockets=[listening])
    finally:
        engine.close(drain)
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    """One that ends the engine while it waits for its answers, so that what is cut short is told why."""

    def __init__(self, config: uvicorn.Config, engine: Engine, drain: float):
        super().__init__(config)
        self._engine, self._drain = engine, drain

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        closing = asyncio.create_task(asyncio.to_thread(self._engine.close, self._drain))
        await super().shutdown(sockets)
        if self.force_exit:  # a second Ctrl-C
            await asyncio.to_thread(self._engine.close, 0.0)
        await closing


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address; port 0 takes a free one.

    Raises:
        HeftError: it cannot be bound.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise HeftError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; give another --port"
        ) from None


def _without_default_ends() -> Mapping[int, object]:
    """uvicorn raises a signal once more when it has ended for it; that is not to end the process as well."""

    def ended(number: int, frame: object) -> None:
        return None

    return {number: signal.signal(number, ended) for number in (signal.SIGINT, signal.SIGTERM)}
