"""The OpenAPI document: what Litestar generates from the routes, completed.

The schemas are those that msgspec, which reads and writes them, generates: Litestar's lose lower
bounds of 0 and that unknown fields are refused. The headers that the middleware adds are added.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from litestar.openapi.plugins import JsonRenderPlugin

from banatie.api.dependencies import HttpRequest
from banatie.api.image_schemas import DeletedImage, FlowView, ImageView
from banatie.api.middleware import needs_key
from banatie.api.requests import (
    AliasUpdate,
    FlowAliasesUpdate,
    GenerationCreate,
    GenerationUpdate,
    ImageUpdate,
)
from banatie.api.routes.admin import AdminKeyView, CreatedKeyView, KeyCreate
from banatie.api.routes.machine import DoctorView, MachineView
from banatie.api.routes.models import (
    InstallationCreate,
    InstallationView,
    ModelChoiceView,
    ModelList,
    ModelSwitch,
)
from banatie.api.routes.scopes import (
    RegeneratedView,
    ScopeChange,
    ScopeCreate,
    ScopeRegenerate,
    ScopeView,
)
from banatie.api.routes.sessions import SessionCreate, SessionView
from banatie.api.routes.system import HealthView, InfoView, Unhealthy
from banatie.api.schemas import Done, Failure, GenerationView, MonthsView, Page, Success
from banatie.config import Limits

SCHEMAS = [
    GenerationCreate,
    GenerationUpdate,
    ImageUpdate,
    AliasUpdate,
    FlowAliasesUpdate,
    Success[ImageView],
    Page[ImageView],
    Success[DeletedImage],
    Success[FlowView],
    Page[FlowView],
    Success[GenerationView],
    Page[GenerationView],
    Done,
    Failure,
    ScopeCreate,
    ScopeChange,
    ScopeRegenerate,
    Success[RegeneratedView],
    Success[ScopeView],
    Page[ScopeView],
    KeyCreate,
    Success[CreatedKeyView],
    Page[AdminKeyView],
    Success[ModelList],
    ModelSwitch,
    Success[ModelChoiceView],
    InstallationCreate,
    Success[InstallationView],
    Page[InstallationView],
    Success[MachineView],
    Success[DoctorView],
    SessionCreate,
    Success[SessionView],
    Page[SessionView],
    Success[HealthView],
    Success[MonthsView],
    Success[InfoView],
    Unhealthy,
]
_INTEGER = {"type": "integer", "minimum": 0}
HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The request's id, as in the server's log.",
        "schema": {"type": "string"},
    },
    "X-RateLimit-Limit": {
        "description": "The key's requests per hour; absent where there is no limit.",
        "schema": _INTEGER,
    },
    "X-RateLimit-Remaining": {
        "description": "How many of them are left in this window.",
        "schema": _INTEGER,
    },
    "X-RateLimit-Reset": {"description": "Seconds until the window ends.", "schema": _INTEGER},
    "Retry-After": {"description": "Seconds to wait before trying again.", "schema": _INTEGER},
    "X-Image-Id": {"description": "The image's id.", "schema": {"type": "string"}},
    "ETag": {"description": "Of these bytes.", "schema": {"type": "string"}},
    "Preference-Applied": {
        "description": "The preference that was applied (RFC 7240).",
        "schema": {"type": "string"},
    },
}
PUBLIC_PREFIX = "/cdn/"
MIME_TYPES = ("image/png", "image/jpeg", "image/webp")
_MODULE = r"banatie\.api\.(?:\w+\.)+"
_PREFIX = "#/components/schemas/"


class OpenApiDocument(JsonRenderPlugin):
    """`/openapi.json`, generated on the first request."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(path="/")
        self._limits = limits
        self._content = b""

    def render(self, request: HttpRequest, openapi_schema: dict[str, Any]) -> bytes:
        """The document as JSON."""
        if not self._content:
            self._content = msgspec.json.encode(_completed(openapi_schema, self._limits))
        return self._content


def _completed(document: dict[str, Any], limits: Limits) -> dict[str, Any]:
    document = _renamed(document)
    document["components"]["schemas"] = _schemas(limits)
    document["components"]["headers"] = HEADERS
    # Relative to the document, so that it also holds below a path of a reverse proxy.
    document["servers"] = [{"url": "."}]
    has_sessions = "session" in document["components"]["securitySchemes"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if has_sessions and {"apiKey": []} in (security := operation.get("security", [])):
                operation["security"] = [*security, {"session": []}]
            parameters = operation.get("parameters", [])
            for parameter in parameters:
                parameter["schema"] = _without_null(parameter["schema"])
            prefers = any(parameter["name"] == "Prefer" for parameter in parameters)
            for status, response in operation["responses"].items():
                names = ["X-Request-Id"]
                if needs_key(path) and status != "401":
                    names += ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]
                if path.startswith(PUBLIC_PREFIX):
                    names += _complete_public(response, status)
                if status == "429" or (status == "503" and "requestBody" in operation):
                    names.append("Retry-After")
                if prefers and status in ("200", "201", "500"):
                    names.append("Preference-Applied")
                response["headers"] = {
                    name: {"$ref": f"#/components/headers/{name}"} for name in names
                }
    return document


def _complete_public(response: dict[str, Any], status: str) -> list[str]:
    """Document the media types of public images and of their errors; their headers' names."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    if status == "200":
        response["content"] = {mime_type: binary for mime_type in MIME_TYPES}
        return ["X-Image-Id", "ETag"]
    if status >= "400":
        response["content"]["image/png"] = binary
    return ["Retry-After"] if status == "503" else []


def _schemas(limits: Limits) -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(SCHEMAS, ref_template=_PREFIX + "{name}")
    # A list in a generic type gives msgspec's name a module, and another ending than Litestar's.
    schemas = {
        re.sub("_+$", "_", re.sub(_MODULE, "", name)): schema for name, schema in schemas.items()
    }
    for schema in schemas.values():
        # msgspec calls what has a default optional, but every answer carries it.
        if "success" in schema.get("properties", {}):
            schema["required"] = ["success", *schema["required"]]
    body = schemas["GenerationCreate"]["properties"]
    for name in ("prompt", "negativePrompt"):
        body[name]["maxLength"] = limits.prompt_characters
    return schemas


def _renamed(value: Any) -> Any:
    """A copy with msgspec's names for the schemas, which are without modules."""
    if isinstance(value, dict):
        return {
            name: re.sub(_MODULE, "", each) if name == "$ref" else _renamed(each)
            for name, each in value.items()
        }
    return [_renamed(each) for each in value] if isinstance(value, list) else value


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an optional parameter: a query or header cannot be null."""
    if "oneOf" in schema:
        rest = {name: value for name, value in schema.items() if name != "oneOf"}
        [kind] = [each for each in schema["oneOf"] if each != {"type": "null"}]
        return kind | rest
    if isinstance(schema.get("type"), list):
        [kind] = [each for each in schema["type"] if each != "null"]
        schema = schema | {"type": kind}
    if "enum" in schema:
        schema = schema | {"enum": [each for each in schema["enum"] if each is not None]}
    return schema
