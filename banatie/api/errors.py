"""The one table from error to HTTP status, and the one shape every failure is answered in.

No stack trace, SQL or path leaves through here: what was not foreseen is logged under the request's
id and answered without a word about its insides.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from litestar import Request, Response
from litestar.exceptions import (
    ClientException,
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    SerializationException,
)
from litestar.exceptions import ValidationException as LitestarValidationException
from litestar.types import Scope, Send

from banatie.api.schemas import ErrorBody, Failure, encode
from banatie.errors import (
    BanatieError,
    QueueFull,
    RateLimitExceeded,
    TooManyFailedKeys,
    ValidationError,
)
from banatie.logs import log_context

logger = logging.getLogger(__name__)

T = TypeVar("T")

STATUS_OF_CODE: Mapping[str, int] = {
    "VALIDATION_ERROR": 400,
    "UNAUTHORIZED": 401,
    "GENERATION_NOT_FOUND": 404,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "REQUEST_TIMEOUT": 408,
    "PAYLOAD_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "RATE_LIMIT_EXCEEDED": 429,
    "GENERATION_FAILED": 500,
    "INTERNAL_ERROR": 500,
    "QUEUE_FULL": 503,
    "SERVICE_UNAVAILABLE": 503,
}

_NAMED_FIELD = re.compile(
    r"Object (?P<kind>missing required|contains unknown) field `(?P<field>.+)`"
)

_CODE_OF_STATUS = {
    400: "VALIDATION_ERROR",
    401: "UNAUTHORIZED",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
}


def to_response(
    request: Request, error: Exception, more_headers: Mapping[str, str] | None = None
) -> Response:
    """The answer to a request that ended in `error`."""
    status, body, headers = describe(error, request.scope)
    return Response(
        content=encode(Failure(error=body)),
        status_code=status,
        headers={**headers, **(more_headers or {})},
        media_type="application/json",
    )


async def send_failure(error: Exception, scope: Scope, send: Send) -> None:
    """Answer with `error` outside Litestar's handlers."""
    status, body, headers = describe(error, scope)
    content = encode(Failure(error=body))
    raw = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    raw += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content, "more_body": False})


def describe(error: Exception, scope: Scope) -> tuple[int, ErrorBody, dict[str, str]]:
    """The status, body and headers that an error is answered with."""
    if isinstance(error, ValidationError):
        details = [{"field": d.field, "message": d.message} for d in error.details] or None
        return 400, ErrorBody(error.code, str(error), details), {}
    if isinstance(error, QueueFull | RateLimitExceeded | TooManyFailedKeys):
        headers = {"Retry-After": str(error.retry_after)}
        return STATUS_OF_CODE[error.code], ErrorBody(error.code, str(error)), headers
    if isinstance(error, BanatieError) and error.code in STATUS_OF_CODE:
        details = getattr(error, "details", None)
        return STATUS_OF_CODE[error.code], ErrorBody(error.code, str(error), details), {}
    if isinstance(error, LitestarValidationException):
        return 400, _validation_body(error), {}
    if isinstance(error.__cause__, SerializationException):
        message = f"The body is not valid JSON: {error.__cause__.__cause__}"
        return 400, ErrorBody("VALIDATION_ERROR", message), {}
    if isinstance(error, UnicodeDecodeError | RecursionError):
        # Litestar lets these two out of its JSON reader as they are.
        message = "The body is not UTF-8, or nested too deeply"
        return 400, ErrorBody("VALIDATION_ERROR", message), {}
    if isinstance(error, NotFoundException):
        return 404, ErrorBody("NOT_FOUND", f"Nothing is at {_path(scope)}"), {}
    if isinstance(error, MethodNotAllowedException):
        message = f"{scope['method']} is not possible at {_path(scope)}"
        return 405, ErrorBody("METHOD_NOT_ALLOWED", message), dict(error.headers or {})
    if isinstance(error, HTTPException) and error.status_code in _CODE_OF_STATUS:
        code = _CODE_OF_STATUS[error.status_code]
        return error.status_code, ErrorBody(code, error.detail or code), {}
    if isinstance(error, ClientException):
        return 400, ErrorBody("VALIDATION_ERROR", error.detail), {}
    request_id = scope.get("state", {}).get("request_id", "")
    with log_context(request_id=request_id):
        logger.error(
            "request %s failed: %s %s", request_id, scope["method"], _path(scope), exc_info=error
        )
    message = f"Something went wrong here; the server's log has it under {request_id}"
    return 500, ErrorBody("INTERNAL_ERROR", message), {}


def strict_body(body: bytes, shape: type[T]) -> T:
    """The body again, read strictly: Litestar takes `"true"` for true and `"7"` for 7.

    Raises ValidationError naming the field.
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        raise ValidationError.of(place.rstrip("`") or "body", message) from error


def _path(scope: Scope) -> str:
    # A mounted application is given the path below it.
    return scope.get("raw_path", scope["path"].encode()).decode("latin-1")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _validation_body(error: LitestarValidationException) -> ErrorBody:
    details = []
    for item in error.extra if isinstance(error.extra, list) else []:
        field, message = item.get("key", ""), item.get("message", "")
        named = _NAMED_FIELD.fullmatch(message)
        if named:
            # msgspec names the place of the object and, in the text, the field in it.
            prefix = "" if field == "data" else f"{field}."
            field = prefix + named["field"]
            message = "is required" if named["kind"] == "missing required" else "is not known here"
        elif field == "data":
            field = "body"
            message = "is missing" if message == "'data'" else message
        if item.get("source") == "query":
            field = _camel(field)
        details.append({"field": field, "message": message})
    summary = "; ".join(f"{detail['field']}: {detail['message']}" for detail in details)
    return ErrorBody("VALIDATION_ERROR", summary or error.detail, details or None)
