"""The application: every path of `heft serve`."""

import asyncio
import os
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from heft import __version__
from heft.adapters.places import own_name
from heft.serving.catalog import Served
from heft.serving.engine import Engine
from heft.serving.http import errors
from heft.serving.http.bodies import StrictRoute
from heft.serving.http.classifying import Classifying
from heft.serving.http.errors import ApiError
from heft.serving.http.guard import Guard
from heft.serving.http.metrics import Metrics
from heft.serving.http.schemas import (
    ChatRequest,
    ClassifyRequest,
    CompletionRequest,
    ErrorDocument,
    LoadRequest,
    UnloadRequest,
)
from heft.serving.http.texts import Texts
from heft.serving.http.wording import Wording
from heft.storage.reading import is_file

_PAGE_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"


_ERRORS: dict[int | str, dict] = {
    "4XX": {"model": ErrorDocument, "description": "refused"},
    "5XX": {"model": ErrorDocument, "description": "not answered, through no fault of the request"},
}
_STREAMED: dict[int | str, dict] = {200: {"content": {"text/event-stream": {}}}}


@dataclass(frozen=True)
class Access:
    """Who may do what.

    Attributes:
        api_key: that `/v1` asks for; None asks for none.
        load_from: folder beneath which adapters may be loaded while running; None allows neither loading nor dropping.
    """

    api_key: str | None = None
    load_from: Path | None = None


def build_app(engine: Engine, access: Access | None = None):
    """The ASGI application of an engine that runs."""
    access = access or Access()
    app = FastAPI(title="heft", version=__version__, docs_url=None, redoc_url=None, responses=_ERRORS)
    app.router.route_class = StrictRoute
    errors.install(app)
    metrics, wording = Metrics(engine), Wording(engine.catalog, engine.limits)
    texts, classifying, started = Texts(engine, wording), Classifying(engine, wording), int(time.time())

    @app.post("/v1/completions", responses=_STREAMED)
    async def completions(body: CompletionRequest, request: Request):
        return await texts.complete(body, request)

    @app.post("/v1/chat/completions", responses=_STREAMED)
    async def chat(body: ChatRequest, request: Request):
        return await texts.chat(body, request)

    @app.post("/v1/classify")
    async def classify(body: ClassifyRequest, request: Request):
        return await classifying.classify(body, request)

    @app.get("/v1/models")
    async def models():
        return {"object": "list", "data": [_card(wording, each, started) for each in engine.catalog.served.values()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str):
        return _card(wording, wording.find(name), started)

    _add_adapters(app, engine, access)

    @app.get("/health")
    async def health():
        return JSONResponse({"status": "ok" if engine.is_alive else "ended"}, 200 if engine.is_alive else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics_document():
        return PlainTextResponse(metrics.document(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page():
        text = files("heft.serving.http").joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": _PAGE_POLICY})

    return metrics.watching(Guard(app, access.api_key, engine.limits.body))


def _add_adapters(app: FastAPI, engine: Engine, access: Access) -> None:
    """The paths by which adapters come and go, as vLLM names them."""

    @app.post("/v1/load_lora_adapter")
    async def load(body: LoadRequest):
        folder = _beneath(access.load_from, body.lora_path)
        await asyncio.wrap_future(engine.call(lambda: engine.catalog.load(folder, body.lora_name)))
        return {"status": "ok", "loaded": body.lora_name}

    @app.post("/v1/unload_lora_adapter")
    async def unload(body: UnloadRequest):
        if access.load_from is None:
            raise _closed()
        if body.lora_name not in engine.catalog.names:
            raise ApiError(404, f"no adapter is loaded as {body.lora_name[:200]!r}", "lora_name", "model_not_found")
        await asyncio.wrap_future(engine.unload(body.lora_name))
        return {"status": "ok", "unloaded": body.lora_name}


def _beneath(allowed: Path | None, given: str) -> Path:
    """The folder that is to be loaded, symbolic links followed.

    Raises:
        ApiError: 403, it is not beneath the folder that may be loaded from; 400, it is no adapter directory.
    """
    if allowed is None:
        raise _closed()
    if "\0" in given:
        raise ApiError(400, "lora_path has a NUL in it", "lora_path")
    folder = Path(os.path.realpath(allowed / given))
    if not folder.is_relative_to(os.path.realpath(allowed)):
        raise ApiError(403, "lora_path is not beneath the folder that this server may load from", "lora_path")
    if not any(is_file(folder / name) for name in ("heft.json", "adapter/heft.json")):
        raise ApiError(400, f"{given[:200]!r} is neither a run with an adapter nor an adapter directory", "lora_path")
    return folder


def _closed() -> ApiError:
    message = "this server loads and drops no adapters while it runs; start it with --load-from DIR to allow that"
    return ApiError(403, message)


def _card(wording: Wording, served: Served, started: int) -> dict:
    """A model as `/v1/models` shows it."""
    catalog = wording.catalog
    is_base = served.directory is None
    choices = served.task.common_choices if served.task is not None else None
    return {
        "id": served.name,
        "object": "model",
        "created": started,
        "owned_by": "heft",
        "root": catalog.base.settings.name if is_base else own_name(served.directory),
        "parent": None if is_base else catalog.base.settings.name,
        "max_model_len": wording.room(0),
        "task": served.task.name if served.task is not None else None,
        "choices": None if choices is None else [choice.strip() for choice in choices],
        "batched_alone": served.alone,
    }
