"""The one table of error codes: each code's HTTP status, and what it says in the OpenAPI document.

Where an error comes from is not known here: `banatie.errors` has the exceptions, `api.errors` turns
them into answers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorCode:
    """A code of the contract."""

    code: str
    status: int
    description: str


# Of several codes with one status, the first is the general one.
ERROR_CODES = (
    ErrorCode("VALIDATION_ERROR", 400, "a parameter is missing, unknown, wrong or out of range"),
    ErrorCode("SCOPE_INVALID_FORMAT", 400, "a scope cannot be called that"),
    ErrorCode("IMAGE_NOT_IN_SCOPE", 400, "the image is not one of this scope"),
    ErrorCode("UNAUTHORIZED", 401, "the API key is missing, unknown, revoked or expired"),
    ErrorCode("FORBIDDEN", 403, "the API key, or the caller, may not do this"),
    ErrorCode("NOT_FOUND", 404, "no such route or thing"),
    ErrorCode("GENERATION_NOT_FOUND", 404, "no such generation in this project"),
    ErrorCode("SCOPE_NOT_FOUND", 404, "no such scope in this project"),
    ErrorCode("IMAGE_NOT_FOUND", 404, "no such image in this project"),
    ErrorCode("FLOW_NOT_FOUND", 404, "no such flow in this project"),
    ErrorCode("ALIAS_NOT_FOUND", 404, "no image has this alias"),
    ErrorCode("METHOD_NOT_ALLOWED", 405, "the route does not take this method"),
    ErrorCode("REQUEST_TIMEOUT", 408, "the body did not arrive in time"),
    ErrorCode("SCOPE_ALREADY_EXISTS", 409, "the project has a scope of this name"),
    ErrorCode("ALIAS_CONFLICT", 409, "another image of the project has this alias"),
    ErrorCode("PAYLOAD_TOO_LARGE", 413, "the body is larger than limits.body_bytes, or a file"),
    ErrorCode("UNSUPPORTED_MEDIA_TYPE", 415, "the body is not declared as what the route takes"),
    ErrorCode("RATE_LIMIT_EXCEEDED", 429, "Retry-After says when to try again"),
    ErrorCode("INTERNAL_ERROR", 500, "the server's log has the details under X-Request-Id"),
    ErrorCode(
        "GENERATION_FAILED",
        500,
        "a generation that was waited for has failed; `details` is its record",
    ),
    ErrorCode("SERVICE_UNAVAILABLE", 503, "the database is busy or gone"),
    ErrorCode(
        "QUEUE_FULL",
        503,
        "limits.queue_size generations are waiting; Retry-After says when to try again",
    ),
)

STATUS_OF_CODE = {entry.code: entry.status for entry in ERROR_CODES}
GENERAL_CODE_OF_STATUS = {entry.status: entry.code for entry in reversed(ERROR_CODES)}
DESCRIPTION_OF_CODE = {entry.code: entry.description for entry in ERROR_CODES}
