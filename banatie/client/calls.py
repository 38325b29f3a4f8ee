"""The requests of the client: how each is written, and how its answer is read.

Nothing is sent here; `Client` and `AsyncClient` do that.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypedDict, TypeVar
from urllib.parse import quote

import httpx2
import msgspec

from banatie.api.image_schemas import ImageView
from banatie.api.schemas import GenerationView, Page, Success
from banatie.errors import GenerationFailed, RequestFailed, ServerUnreachable
from banatie.records import AspectRatio, ImageFormat, ImageSource, Status, TemplateName

T = TypeVar("T")

TIMEOUT_SECONDS = 60.0
"""For a connection and for an answer, which may wait this much longer than it was asked to."""
GENERATIONS, IMAGES = "/api/v1/generations", "/api/v1/images"


class GenerationOptions(TypedDict, total=False):
    """The optional parameters of a generation (docs/api.md); what is left out has its default."""

    aspect_ratio: AspectRatio
    size: str
    auto_enhance: bool
    template: TemplateName
    meta: Mapping[str, Any]
    seed: int
    negative_prompt: str
    steps: int
    guidance_scale: float
    loras: Mapping[str, float]
    """The weights by name."""
    flow_id: str | None
    alias: str
    flow_alias: str
    reference_images: Sequence[str]
    reference_strength: float
    mask: str
    upscale: float
    output_format: ImageFormat
    quality: int
    webhook: str


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and the type of what is in its answer."""

    answer: type[T]
    method: str
    path: str
    wait: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    may_repeat: bool = True

    def arguments(self) -> dict[str, Any]:
        """What httpx2 sends."""
        headers = dict(self.headers)
        if self.wait:
            headers["Prefer"] = f"wait={self.wait}"
        timeout = TIMEOUT_SECONDS + self.wait
        return {"headers": headers, "timeout": timeout, **self.options}

    def read(self, response: httpx2.Response) -> T:
        """What the answer holds. Raises RequestFailed."""
        try:
            return msgspec.json.decode(response.content, type=self.answer)
        except msgspec.DecodeError as error:
            raise RequestFailed(
                response.status_code, "INTERNAL_ERROR", f"This is no answer of Banatie: {error}"
            ) from error


def settings(url: str, key: str) -> dict[str, Any]:
    # The server is one's own, and so no proxy that the environment names is asked for it.
    return {"base_url": url, "headers": {"X-API-Key": key} if key else {}, "trust_env": False}


def create(
    prompt: str, idempotency_key: str | None, parameters: Mapping[str, Any]
) -> Call[Success[GenerationView]]:
    body: dict[str, Any] = {"prompt": prompt}
    for name, value in parameters.items():
        if name == "template":
            body["enhancementOptions"] = {"template": value}
        elif name == "loras":
            body["loras"] = [{"name": lora, "weight": weight} for lora, weight in value.items()]
        else:
            first, *rest = name.split("_")
            body[first + "".join(word.capitalize() for word in rest)] = value
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return Call(
        Success[GenerationView], "POST", GENERATIONS, headers=headers, options={"json": body}
    )


def get(generation_id: str, wait: int) -> Call[Success[GenerationView]]:
    return Call(Success[GenerationView], "GET", f"{GENERATIONS}/{_segment(generation_id)}", wait)


def list_page(limit: int, offset: int, status: Status | None) -> Call[Page[GenerationView]]:
    query = _given(limit=limit, offset=offset, status=status)
    return Call(Page[GenerationView], "GET", GENERATIONS, options={"params": query})


def cancel(generation_id: str) -> Call[Success[GenerationView]]:
    path = f"{GENERATIONS}/{_segment(generation_id)}/cancel"
    return Call(Success[GenerationView], "POST", path)


def delete(generation_id: str) -> Call[dict[str, Any]]:
    # Sent again, it would fail after it has worked.
    path = f"{GENERATIONS}/{_segment(generation_id)}"
    return Call(dict[str, Any], "DELETE", path, may_repeat=False)


def upload(content: bytes, alias: str | None) -> Call[Success[ImageView]]:
    options = {"files": {"file": ("picture", content)}, "data": _given(alias=alias)}
    return Call(Success[ImageView], "POST", f"{IMAGES}/upload", options=options, may_repeat=False)


def images(limit: int, offset: int, source: ImageSource | None) -> Call[Page[ImageView]]:
    query = _given(limit=limit, offset=offset, source=source)
    return Call(Page[ImageView], "GET", IMAGES, options={"params": query})


def image(id_or_alias: str) -> Call[Success[ImageView]]:
    return Call(Success[ImageView], "GET", f"{IMAGES}/{_segment(id_or_alias)}")


def download(picture: GenerationView | ImageView) -> Call[bytes]:
    image = picture if isinstance(picture, ImageView) else picture.output_image
    if image is None:
        raise GenerationFailed("The generation has no picture", picture)
    # Below the client's own address: that of the answer may be one that others reach it by.
    path = image.storage_url[image.storage_url.rindex("/storage/") :]
    return Call(bytes, "GET", path)


def is_finished(generation: GenerationView) -> bool:
    """Whether the picture is there. Raises GenerationFailed."""
    if generation.status == "failed":
        raise GenerationFailed(generation.error_message or "It failed", generation)
    return generation.status == "success"


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _segment(text: str) -> str:
    """The text as one part of a path; what it names may be anything."""
    return quote(text, safe="@")


def checked(response: httpx2.Response) -> httpx2.Response:
    if response.status_code >= 300:
        raise _failure(response)
    return response


def _failure(response: httpx2.Response) -> RequestFailed:
    try:
        error = response.json()["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, LookupError, TypeError):
        code, message = "INTERNAL_ERROR", f"Status {response.status_code} without a reason"
    return RequestFailed(response.status_code, code, message)


def unreachable(url: object, error: httpx2.TransportError) -> ServerUnreachable:
    return ServerUnreachable(
        f"No answer from {url} ({error or type(error).__name__}); is `banatie serve` running there?"
    )
