"""Errors as OpenAI's API has them: `{"error": {"message", "type", "param", "code"}}` with an HTTP status."""

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from heft.errors import HeftError
from heft.serving.engine import Ended, QueueFull
from heft.serving.requests import Failed
from heft.settings.words import dotted, faults_in, in_one_line

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_STATUS_OF_FAILURE = {"timeout": 504, "stopped": 503, "memory": 503, "input": 400, "defect": 500}
_RETRY_AFTER = "1"


class ApiError(Exception):
    """What is wrong with a request, for the client: `status` of HTTP, `param` the field, `code` a word for programs."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict:
    """The document of an error."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def of_failure(failed: Failed) -> ApiError:
    """The error of a request that the engine could not answer."""
    return ApiError(_STATUS_OF_FAILURE.get(failed.kind, 500), failed.message, code=failed.kind)


def of_heft_error(error: HeftError) -> ApiError:
    """The error of what heft refuses."""
    if isinstance(error, QueueFull):
        return ApiError(429, str(error), code="queue_full")
    if isinstance(error, Ended):
        return ApiError(503, str(error), code="stopped")
    return ApiError(400, str(error))


def install(app: FastAPI) -> None:
    """Let every error of an application have this form."""

    @app.exception_handler(ApiError)
    async def _api(request: Request, error: ApiError) -> JSONResponse:
        return _response(error)

    @app.exception_handler(HeftError)
    async def _heft(request: Request, error: HeftError) -> JSONResponse:
        return _response(of_heft_error(error))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        return _response(ApiError(error.status_code, str(error.detail)), error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        if isinstance(error.body, bytes):
            return _response(
                ApiError(400, "the body was not sent as JSON: set the header Content-Type: application/json")
            )
        complaints = error.errors()
        kind = request.scope["route"].body_field.field_info.annotation
        faults = faults_in([{**each, "loc": each["loc"][1:]} for each in complaints], kind)  # the first is "body"
        return _response(ApiError(400, in_one_line(faults), param=dotted(next(iter(faults))) or None))

    @app.exception_handler(Exception)
    async def _defect(request: Request, error: Exception) -> JSONResponse:
        return _response(ApiError(500, f"{type(error).__name__}: a defect of the server, which goes on"))


def _response(error: ApiError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    own = {"Retry-After": _RETRY_AFTER} if error.status in (429, 503) else {}
    body = error_body(error.status, error.message, error.param, error.code)
    return JSONResponse(body, error.status, {**(headers or {}), **own})
