"""From exceptions to answers: one status table (`error_codes`), and one shape for every failure.

No stack trace, SQL or file path leaves through here: an unforeseen exception is logged under the
request's id and answered without details.
"""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.exceptions import (
    ClientException,
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
)
from litestar.exceptions import ValidationException as LitestarValidationException
from litestar.types import HTTPScope, Send

from banatie.api.error_codes import GENERAL_CODE_OF_STATUS, STATUS_OF_CODE
from banatie.api.schemas import ErrorBody, Failure, FieldErrorView, encode
from banatie.errors import BanatieError, GenerationFailed, ValidationError
from banatie.logs import log_context

logger = logging.getLogger(__name__)

T = TypeVar("T")

Answer = tuple[int, ErrorBody, dict[str, str]]
"""Status, body and headers."""
EncodedAnswer = tuple[int, bytes, dict[str, str]]
"""The same as it is sent."""

IS_REQUIRED, IS_UNKNOWN = "is required", "is not a known field"

_NAMED_FIELD = re.compile(
    r"Object (?P<problem>missing required|contains unknown) field `(?P<field>.+)`"
)
_PROBLEMS = {"missing required": IS_REQUIRED, "contains unknown": IS_UNKNOWN}


def to_response(
    request: Request[Any, Any, Any],
    error: Exception,
    more_headers: Mapping[str, str] | None = None,
) -> Response[Any]:
    """The answer to a request that ended in `error`."""
    status, body, headers = answer_to(error, request.scope)
    return Response(
        content=encode(Failure(error=body)),
        status_code=status,
        headers={**headers, **(more_headers or {})},
        media_type="application/json",
    )


def encoded_answer(error: Exception, scope: HTTPScope) -> EncodedAnswer:
    """What an exception is answered with, in the shape of the Banatie API."""
    status, body, headers = answer_to(error, scope)
    return status, encode(Failure(error=body)), headers


async def send_failure(
    error: Exception,
    scope: HTTPScope,
    send: Send,
    answer: Callable[[Exception, HTTPScope], EncodedAnswer] = encoded_answer,
) -> None:
    """Answer with `error` outside Litestar's handlers."""
    status, content, headers = answer(error, scope)
    raw = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    raw += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content, "more_body": False})


def answer_to(error: Exception, scope: HTTPScope) -> Answer:
    """What an exception is answered with."""
    if isinstance(error, BanatieError) and error.code in STATUS_OF_CODE:
        return _answer_to_own(error)
    if isinstance(error, LitestarValidationException):
        return 400, _validation_body(error), {}
    if isinstance(error, NotFoundException):
        return 404, ErrorBody("NOT_FOUND", f"No route {_path(scope)}"), {}
    if isinstance(error, MethodNotAllowedException):
        message = f"{_path(scope)} does not take {scope['method']}"
        return 405, ErrorBody("METHOD_NOT_ALLOWED", message), _allow(error)
    if isinstance(error, HTTPException) and error.status_code in GENERAL_CODE_OF_STATUS:
        code = GENERAL_CODE_OF_STATUS[error.status_code]
        return error.status_code, ErrorBody(code, error.detail or code), {}
    if isinstance(error, ClientException):
        return 400, ErrorBody("VALIDATION_ERROR", error.detail), {}
    request_id = scope.get("state", {}).get("request_id", "")
    with log_context(request_id=request_id):
        logger.error(
            "request %s failed: %s %s", request_id, scope["method"], _path(scope), exc_info=error
        )
    message = f"Internal error; the server's log has the details under {request_id}"
    return 500, ErrorBody("INTERNAL_ERROR", message), {}


def decode_body(body: bytes, shape: type[T]) -> T:
    """The JSON body as this shape, strictly: `"true"` is no boolean and `"7"` no number.

    Litestar's own decoding would convert both. Raises ValidationError naming the field.
    """
    # Some clients on Windows begin with a byte order mark.
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body:
        raise ValidationError.of("body", "is missing")
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise of_field(error) from error
    except msgspec.DecodeError as error:
        raise ValidationError(f"The body is not valid JSON: {error}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValidationError("The body is not UTF-8, or nested too deeply") from error


def of_field(error: msgspec.ValidationError) -> ValidationError:
    """The same as an error of the request, naming the field."""
    message, _, place = str(error).partition(" - at `$")
    field, message = _named(place.strip(".`"), message)
    return ValidationError.of(field or "body", message)


def _answer_to_own(error: BanatieError) -> Answer:
    details: Any = None
    if isinstance(error, ValidationError):
        details = [FieldErrorView(d.field, d.message) for d in error.details] or None
    elif isinstance(error, GenerationFailed):
        details = error.details
    retry_after = getattr(error, "retry_after", None)
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return STATUS_OF_CODE[error.code], ErrorBody(error.code, str(error), details), headers


def _validation_body(error: LitestarValidationException) -> ErrorBody:
    """Litestar's objections to parameters of the path, the query or the headers."""
    details = []
    for item in error.extra if isinstance(error.extra, list) else []:
        field, message = _named(item.get("key", ""), item.get("message", ""))
        if item.get("source") == "query":
            field = _camel(field)
        details.append(FieldErrorView(field, message))
    summary = "; ".join(f"{detail.field}: {detail.message}" for detail in details)
    return ErrorBody("VALIDATION_ERROR", summary or error.detail, details or None)


def _named(place: str, message: str) -> tuple[str, str]:
    """The field and what is wrong with it: msgspec names some fields in its text alone."""
    found = _NAMED_FIELD.fullmatch(message)
    if found is None:
        return place, message
    return f"{place}.{found['field']}".lstrip("."), _PROBLEMS[found["problem"]]


def _allow(error: MethodNotAllowedException) -> dict[str, str]:
    # HEAD is answered wherever GET is, which Litestar does not know.
    methods = (error.headers or {}).get("allow", "").split(", ")
    return {"Allow": ", ".join(dict.fromkeys([*methods, *(["HEAD"] if "GET" in methods else [])]))}


def _path(scope: HTTPScope) -> str:
    # `path` is percent-decoded, and shortened where an application is mounted.
    return scope.get("raw_path", scope["path"].encode()).decode("latin-1")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
