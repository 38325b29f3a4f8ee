"""Keys and errors as clients of the OpenAI API send and read them.

The table of error codes is Banatie's (`error_codes`); here each gets its OpenAI name.
"""

from __future__ import annotations

from collections.abc import Mapping

from litestar.types import HTTPScope
from msgspec import Struct

from banatie.api.auth import NEW_KEY
from banatie.api.dialects.dialect import Dialect
from banatie.api.errors import IS_REQUIRED, IS_UNKNOWN, EncodedAnswer, answer_to
from banatie.api.schemas import encode
from banatie.errors import Unauthorized, ValidationError

PREFIX = "/v1"
FORM_PATHS = frozenset({f"{PREFIX}/images/edits", f"{PREFIX}/images/variations"})

CODES = {
    "UNAUTHORIZED": "invalid_api_key",
    "NOT_FOUND": "not_found",
    "INTERNAL_ERROR": "server_error",
}
"""OpenAI's names of those errors that have one; others keep theirs, in lower case."""
PARAMETERS = {
    "negativePrompt": "negative_prompt",
    "guidanceScale": "guidance_scale",
    "referenceStrength": "reference_strength",
    "referenceImages": "image",
}
"""What parameters that `intake` names are called here."""


class ErrorBody(Struct):
    """An error; `param` is the parameter that is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failure(Struct):
    """The answer to a request that failed, and an error within a stream."""

    error: ErrorBody


def key_text(headers: Mapping[bytes, bytes]) -> str:
    """The key in the Authorization header, or in Banatie's own. Raises Unauthorized."""
    scheme, _, credentials = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    text = credentials.strip() if scheme.lower() == "bearer" else ""
    text = text or headers.get(b"x-api-key", b"").decode("latin-1")
    if not text:
        raise Unauthorized(f"Send an API key as Authorization: Bearer bnt_…; {NEW_KEY}")
    return text


def failure_of(error: Exception, scope: HTTPScope) -> tuple[int, Failure, dict[str, str]]:
    """An exception's status, its OpenAI shape, and its headers."""
    status, body, headers = answer_to(error, scope)
    message, param, code = body.message, None, CODES.get(body.code, body.code.lower())
    if isinstance(error, ValidationError):
        code = "invalid_value"
        if error.details:
            [detail, *_] = error.details
            param = PARAMETERS.get(detail.field, detail.field)
            message = f"{param}: {detail.message}"
            if detail.message == IS_UNKNOWN:
                code = "unknown_parameter"
            elif detail.message == IS_REQUIRED:
                code = "missing_required_parameter"
    elif body.code == "GENERATION_FAILED":
        # It would fail again, or somebody has cancelled it. OpenAI's packages obey this header.
        headers = {**headers, "x-should-retry": "false"}
    return status, Failure(ErrorBody(message, _type(status), param, code)), headers


def answer(error: Exception, scope: HTTPScope) -> EncodedAnswer:
    """What an exception is answered with."""
    status, failure, headers = failure_of(error, scope)
    return status, encode(failure), headers


def _type(status: int) -> str:
    if status == 429:
        return "requests"
    return "server_error" if status >= 500 else "invalid_request_error"


OPENAI = Dialect(PREFIX, FORM_PATHS, key_text, answer)
