"""Public image URLs: `/cdn/:org/:project/img/:idOrAlias`, whole or as a smaller copy.

An id is known only to whoever was told it, and an alias was given to be used. The technical aliases
(`@last` and the like) are for those who have a key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

from litestar import Response, Router, get
from litestar.openapi.spec import OpenAPIType, Operation, Parameter, Schema
from litestar.params import PathParameter

from banatie.api.dependencies import AppState, HttpRequest, app_state_of
from banatie.api.error_picture import to_picture
from banatie.api.file_response import UNCHANGED, PictureResponse, file_failure
from banatie.api.query import read_query
from banatie.api.responses import failures, options
from banatie.api.routes.live import Slug
from banatie.errors import AliasNotFound, ValidationError
from banatie.imaging.formats import MIME_TYPES
from banatie.limits import MAX_SIDE
from banatie.records import Image, ImageFormat
from banatie.store.aliases import TECHNICAL

PATH = "/cdn/{organization_slug:str}/{project_slug:str}/img"
BY_ID = "public, max-age=31536000"
BY_ALIAS = "public, max-age=60"
"""An alias can move to another image."""

_SIDE = re.compile(r"[1-9]\d{0,3}", re.ASCII)


@dataclass(frozen=True)
class Copy:
    """What is asked for beside the image; None where it is as the image has it."""

    width: int | None
    height: int | None
    image_format: ImageFormat | None

    def is_whole(self, image: Image) -> bool:
        """Whether the image itself is what is asked for."""
        return (
            (self.width is None or self.width >= image.width)
            and (self.height is None or self.height >= image.height)
            and (self.image_format is None or MIME_TYPES[self.image_format] == image.mime_type)
        )


@dataclass
class CopyOperation(Operation):
    """Documents the query, which the route reads itself."""

    def __post_init__(self) -> None:
        """Add the parameters."""
        side = Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=MAX_SIDE)
        formats = Schema(type=OpenAPIType.STRING, enum=list(get_args(ImageFormat)))
        self.parameters = [
            *(self.parameters or ()),
            *(Parameter(name, "query", schema=side, required=False) for name in ("w", "h")),
            Parameter("format", "query", schema=formats, required=False),
        ]


@get(
    "/{reference:str}",
    operation_id="getPublicImage",
    operation_class=CopyOperation,
    summary="Get an image by its id or alias, or a smaller copy of it",
    media_type="image/png",
    response_description="The image.",
    responses=UNCHANGED
    | failures(
        *("VALIDATION_ERROR", "NOT_FOUND", "IMAGE_NOT_FOUND", "ALIAS_NOT_FOUND"),
        *("INTERNAL_ERROR", "SERVICE_UNAVAILABLE"),
    ),
)
async def public_image(
    organization_slug: Slug,
    project_slug: Slug,
    reference: Annotated[str, PathParameter(description="The image's id or alias.")],
    request: HttpRequest,
) -> Response[bytes]:
    """The image; with `w` and `h` a copy that fits into them, with `format` in that format."""
    app = app_state_of(request)
    wanted = parse(request.scope["query_string"])
    place = (organization_slug, project_slug, reference)
    try:
        path, mime_type, image_id = await app.copy(_find, app, *place, wanted)
    except OSError as error:
        raise file_failure(error) from error
    headers = {
        "content-type": mime_type,
        "cache-control": BY_ALIAS if reference.startswith("@") else BY_ID,
        "x-image-id": image_id,
    }
    return PictureResponse(path, headers)


def public_images_router() -> Router:
    """The routes of public image URLs."""
    return Router(
        PATH,
        route_handlers=[options("/{reference:str}", "GET"), public_image],
        exception_handlers={Exception: to_picture},
        security=[],
        tags=["Public images"],
    )


def parse(query: bytes) -> Copy:
    """What the query asks for. Raises ValidationError naming the parameter."""
    given = read_query(query, ("w", "h", "format"))
    image_format: ImageFormat | None = None
    if "format" in given:
        image_format = next((f for f in get_args(ImageFormat) if f == given["format"]), None)
        if image_format is None:
            formats = ", ".join(get_args(ImageFormat))
            raise ValidationError.of("format", f"must be one of {formats}")
    return Copy(_side(given, "w"), _side(given, "h"), image_format)


def _side(given: dict[str, str], name: str) -> int | None:
    if name not in given:
        return None
    if not _SIDE.fullmatch(given[name]) or int(given[name]) > MAX_SIDE:
        raise ValidationError.of(name, f"must be a whole number of pixels from 1 to {MAX_SIDE}")
    return int(given[name])


def _find(
    app: AppState, organization_slug: str, project_slug: str, reference: str, wanted: Copy
) -> tuple[Path, str, str]:
    """The file, its media type and the image's id; blocks while a copy is made."""
    project = app.projects.called(organization_slug, project_slug)
    if reference in TECHNICAL:
        raise AliasNotFound(reference)
    image = app.library.images.get(project.id, reference)
    source = app.files.path(image.storage_key)
    if wanted.is_whole(image):
        return source, image.mime_type, image.id
    own_format = next(each for each, name in MIME_TYPES.items() if name == image.mime_type)
    image_format = wanted.image_format or own_format
    path = app.files.thumbnails.get(image.id, source, image_format, wanted.width, wanted.height)
    return path, MIME_TYPES[image_format], image.id
