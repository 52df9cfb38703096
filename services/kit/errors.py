"""The errors that services raise and their HTTP responses: every body that is not 2xx is `{error, detail}`.

ServiceError
├── BadRequest     400   not HTTP/1.1, or its host is ambiguous
├── Unauthorized   401   no key, or an unknown one
├── Forbidden      403   the key does not permit this
├── NotFound       404   unknown task, rubric or version
├── RequestTimeout 408   the request did not arrive in time
├── Conflict       409   the state is not the one the caller assumed: another rubric is pinned or active
├── TooLarge       413   the body is over the limit
├── UrlTooLong     414   the URL is over the limit
├── Misdirected    421   the Host header names another host
├── Invalid        422   a well-formed request that cannot be carried out
├── Overloaded     429   nothing was done; retry later
├── HeadTooLarge   431   URL and header fields are over the limit
└── Unavailable    503   a dependency is unavailable
"""

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from redis import exceptions as redis_errors
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from regrade.contracts import ErrorBody
from services.kit.redis_faults import fault_of

log = logging.getLogger(__name__)

_MAX_PROBLEMS = 8


class ServiceError(Exception):
    """An error with its HTTP status, a stable `code`, a sentence, and the seconds after which a retry may succeed."""

    status = 500
    code = "internal"

    def __init__(self, detail: str, *, code: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.code
        self.retry_after = retry_after


class BadRequest(ServiceError):
    status, code = 400, "bad_request"


class Unauthorized(ServiceError):
    status, code = 401, "unauthorized"


class Forbidden(ServiceError):
    status, code = 403, "forbidden"


class NotFound(ServiceError):
    status, code = 404, "not_found"


class RequestTimeout(ServiceError):
    status, code = 408, "request_timeout"


class Conflict(ServiceError):
    status, code = 409, "conflict"


class TooLarge(ServiceError):
    status, code = 413, "too_large"


class UrlTooLong(ServiceError):
    status, code = 414, "url_too_long"


class Misdirected(ServiceError):
    status, code = 421, "misdirected"


class Invalid(ServiceError):
    status, code = 422, "invalid"


class Overloaded(ServiceError):
    status, code = 429, "overloaded"


class HeadTooLarge(ServiceError):
    status, code = 431, "head_too_large"


class Unavailable(ServiceError):
    status, code = 503, "unavailable"


def describe_validation(errors: Sequence[Any]) -> str:
    """One line a problem, without the input: `items.0.step: Input should be ...`."""
    nested = {_location(e)[:1] for e in errors if len(_location(e)) > 1}
    # A list is reported as too short when its items are invalid: the items' own errors say why.
    reported = [e for e in errors if not (e["type"] == "too_short" and _location(e) in nested)]
    problems = [": ".join(filter(None, (".".join(_location(e)), _message(e)))) for e in reported]
    more = f" (and {len(problems) - _MAX_PROBLEMS} more)" if len(problems) > _MAX_PROBLEMS else ""
    return "; ".join(problems[:_MAX_PROBLEMS]) + more


def _location(error: Any) -> tuple[str, ...]:
    return tuple(str(part) for part in error["loc"] if part != "body")


def _message(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")


def error_response(error: ServiceError) -> JSONResponse:
    """The HTTP response of an error, with `Retry-After` where it is set."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    body = ErrorBody(error=error.code, detail=error.detail)
    return JSONResponse(body.model_dump(), status_code=error.status, headers=headers)


_CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that went away before its request was complete."""
_RETRY_REDIS_S, _RETRY_LASTING_S = 2, 10


def redis_problem(error: BaseException) -> Unavailable:
    """The error of a request that failed in Redis, by its kind; what Redis said is for the log alone."""
    fault = fault_of(error)
    retry_after = _RETRY_LASTING_S if fault.is_lasting else _RETRY_REDIS_S
    sentence = str(error) if getattr(error, "fault", None) is not None else fault.sentence
    return Unavailable(f"{sentence} (the service's log has the details)", code=fault.code, retry_after=retry_after)


def install_error_handlers(app: FastAPI) -> None:
    """Map every error that an app can raise to `{error, detail}`."""

    async def on_service_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ServiceError)
        return error_response(error)

    async def on_validation(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return error_response(Invalid(describe_validation(error.errors())))

    async def on_http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code == 400:  # FastAPI's response to a body that is not UTF-8
            return error_response(Invalid("the body is not JSON in UTF-8"))
        body = ErrorBody(error=str(error.detail).lower().replace(" ", "_"), detail=str(error.detail))
        return JSONResponse(body.model_dump(), status_code=error.status_code, headers=error.headers)

    async def on_redis(request: Request, error: Exception) -> JSONResponse:
        fault = fault_of(error)
        announced = getattr(error, "fault", None) is not None  # by the circuit, once for all requests
        level = logging.INFO if announced else logging.ERROR if fault.is_lasting else logging.WARNING
        extra = {"kind": fault.kind, "detail": fault.detail, "path": request.url.path}
        log.log(level, f"refused: {fault.sentence}", exc_info=None if fault.is_of_server else error, extra=extra)
        return error_response(redis_problem(error))

    async def on_disconnect(_: Request, error: Exception) -> Response:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)  # nobody reads it; metrics count it

    async def on_anything(request: Request, error: Exception) -> JSONResponse:
        log.error("unhandled error", exc_info=error, extra={"path": request.url.path})
        return error_response(ServiceError("internal error; the service's log has the traceback"))

    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(redis_errors.RedisError, on_redis)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    app.add_exception_handler(Exception, on_anything)
