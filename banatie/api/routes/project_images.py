"""The routes of images: `/api/v1/images` (docs/api.md).

What a client can do with images is in `library`; here it becomes HTTP. Their files are served by
`routes.images`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from litestar import Response, Router, delete, get, post, put
from litestar.datastructures import UploadFile
from litestar.openapi.spec import (
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)
from litestar.params import FromQuery, PathParameter, QueryParameter

from banatie.api.dependencies import HttpRequest, app_state_of, in_thread, key_of
from banatie.api.errors import decode_body
from banatie.api.image_schemas import DeletedImage, ImageView, image_view
from banatie.api.query import check_query
from banatie.api.requests import ALIAS_PATTERN, AliasUpdate, ImageUpdate, flow_of
from banatie.api.responses import (
    CHANGE_ERRORS,
    COMMON_ERRORS,
    documented_body,
    failures,
    json_response,
    options,
    page_response,
)
from banatie.api.schemas import Page, Success
from banatie.errors import ValidationError
from banatie.library import UploadRequest, check_size
from banatie.limits import (
    MAX_ALIAS_LENGTH,
    MAX_PAGE_SIZE,
    MAX_SAFE_INTEGER,
    MAX_UPLOAD_BYTES,
)
from banatie.records import ImageSource

FORM_BYTES = 128 * 1024
"""Of an upload's body, for what is not the file."""
FORM_FIELDS = ("file", "alias", "flowId", "flowAlias", "meta")
ONE_IMAGE = ("IMAGE_NOT_FOUND", "ALIAS_NOT_FOUND")

ImageRef = Annotated[str, PathParameter(description="The image's id or alias.")]


@dataclass
class UploadOperation(Operation):
    """Documents the form, which the route reads itself."""

    def __post_init__(self) -> None:
        """Add the body."""
        text = Schema(type=OpenAPIType.STRING)
        alias = Schema(type=OpenAPIType.STRING, pattern=ALIAS_PATTERN, max_length=MAX_ALIAS_LENGTH)
        schema = Schema(
            type=OpenAPIType.OBJECT,
            properties={
                "file": Schema(
                    type=OpenAPIType.STRING,
                    format=OpenAPIFormat.BINARY,
                    description=f"A PNG, JPEG or WebP of at most {MAX_UPLOAD_BYTES} bytes.",
                ),
                "alias": alias,
                "flowId": Schema(
                    type=OpenAPIType.STRING,
                    format=OpenAPIFormat.UUID,
                    description="As for a generation; the text `null` stands for null.",
                ),
                "flowAlias": alias,
                "meta": Schema(
                    type=text.type, description="A JSON object as text.", examples=['{"order": 7}']
                ),
            },
            required=["file"],
            additional_properties=False,
        )
        content = {"multipart/form-data": OpenAPIMediaType(schema=schema)}
        self.request_body = RequestBody(content=content, required=True)


@post(
    "/upload",
    operation_id="uploadImage",
    operation_class=UploadOperation,
    summary="Upload an image",
    response_description="The stored image.",
    responses=failures(*CHANGE_ERRORS, "REQUEST_TIMEOUT", "PAYLOAD_TOO_LARGE", "ALIAS_CONFLICT"),
    request_max_body_size=MAX_UPLOAD_BYTES + FORM_BYTES,
)
async def upload_image(request: HttpRequest) -> Response[Success[ImageView]]:
    """Store a PNG, JPEG or WebP, so that generations can be painted from it.

    It is decoded first. It is stored upright and in sRGB, without the camera's metadata unless
    `images.keep_metadata` is set.
    """
    app, key = app_state_of(request), key_of(request)
    fields = await _form_of(request)
    file = fields.pop("file", None)
    if not isinstance(file, UploadFile):
        raise ValidationError.of("file", "is required, as a file with a file name")
    try:
        data = await file.read(MAX_UPLOAD_BYTES + 1)
    finally:
        await file.close()
    check_size(len(data))
    names = _names_of(fields)
    upload = await in_thread(app.library.decode, data)
    image = await app.write(app.library.add, key.project.id, upload, names)
    return json_response(Success(data=image_view(image, app.public_url(request))), status=201)


@get(
    "/",
    operation_id="listImages",
    summary="List the project's images, newest first",
    response_description="A page of images.",
    responses=failures(*COMMON_ERRORS),
    query=("flowId", "source", "alias", "limit", "offset"),
)
async def list_images(
    request: HttpRequest,
    flow_id: Annotated[
        str | None, QueryParameter(name="flowId", schema_extra={"format": "uuid"})
    ] = None,
    source: FromQuery[ImageSource | None] = None,
    alias: FromQuery[str | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE_SIZE)] = 20,
    offset: Annotated[int, QueryParameter(ge=0, le=MAX_SAFE_INTEGER)] = 0,
) -> Response[Page[ImageView]]:
    """A page of the list."""
    app, key = app_state_of(request), key_of(request)
    if "null" in request.query_params.getall("source", []):
        raise ValidationError.of("source", "Invalid enum value 'null'")
    images, total = await in_thread(
        app.library.images.page,
        key.project.id,
        flow_id=flow_of(flow_id)[0] if flow_id is not None else None,
        source=source,
        alias=alias,
        limit=limit,
        offset=offset,
    )
    url = app.public_url(request)
    return page_response([image_view(image, url) for image in images], limit, offset, total)


@get(
    "/{image:str}",
    operation_id="getImage",
    summary="Get an image",
    response_description="The image.",
    responses=failures(*COMMON_ERRORS, *ONE_IMAGE),
)
async def get_image(image: ImageRef, request: HttpRequest) -> Response[Success[ImageView]]:
    """What is known of the image; its `storageUrl` has the bytes."""
    app, key = app_state_of(request), key_of(request)
    found = await in_thread(app.library.images.get, key.project.id, image)
    return json_response(Success(data=image_view(found, app.public_url(request))))


@put(
    "/{image:str}",
    operation_id="updateImage",
    operation_class=documented_body("ImageUpdate"),
    summary="Change an image's focal point or metadata",
    response_description="The image as it is now.",
    responses=failures(*CHANGE_ERRORS, *ONE_IMAGE, "REQUEST_TIMEOUT", "PAYLOAD_TOO_LARGE"),
)
async def update_image(image: ImageRef, request: HttpRequest) -> Response[Success[ImageView]]:
    """Change what is given; the rest stays as it is."""
    app, key = app_state_of(request), key_of(request)
    changes = decode_body(await request.body(), ImageUpdate).to_changes()
    changed = await app.write(app.library.update_image, key.project.id, image, changes)
    return json_response(Success(data=image_view(changed, app.public_url(request))))


@put(
    "/{image:str}/alias",
    operation_id="setImageAlias",
    operation_class=documented_body("AliasUpdate"),
    summary="Give an image an alias, or take it away",
    response_description="The image as it is now.",
    responses=failures(
        *CHANGE_ERRORS, *ONE_IMAGE, "ALIAS_CONFLICT", "REQUEST_TIMEOUT", "PAYLOAD_TOO_LARGE"
    ),
)
async def set_image_alias(image: ImageRef, request: HttpRequest) -> Response[Success[ImageView]]:
    """One image of the project has an alias; one that another image has is refused."""
    app, key = app_state_of(request), key_of(request)
    alias = decode_body(await request.body(), AliasUpdate).alias
    changed = await app.write(app.library.set_alias, key.project.id, image, alias)
    return json_response(Success(data=image_view(changed, app.public_url(request))))


@delete(
    "/{image:str}",
    operation_id="deleteImage",
    summary="Delete an image and its file",
    response_description="It is deleted.",
    responses=failures(*CHANGE_ERRORS, *ONE_IMAGE),
    status_code=200,
)
async def delete_image(image: ImageRef, request: HttpRequest) -> Response[Success[DeletedImage]]:
    """Delete it for good. Its generation stays, without an output image.

    A generation that waits to be painted from it fails.
    """
    app, key = app_state_of(request), key_of(request)
    deleted = await app.write(app.library.delete_image, key.project.id, image)
    return json_response(Success(data=DeletedImage(id=deleted.id)))


def project_images_router() -> Router:
    """The routes below /api/v1/images."""
    return Router(
        "/api/v1/images",
        route_handlers=[
            options("/", "GET"),
            options("/upload", "POST"),
            options("/{image:str}", "GET", "PUT", "DELETE"),
            upload_image,
            list_images,
            get_image,
            update_image,
            set_image_alias,
            delete_image,
        ],
        guards=[check_query],
        security=[{"apiKey": []}],
        tags=["Images"],
    )


async def _form_of(request: HttpRequest) -> dict[str, Any]:
    """The form's fields, each once. Raises ValidationError."""
    try:
        form = await request.form()
    except (UnicodeDecodeError, LookupError) as error:
        raise ValidationError(
            "The form has a field that is no text; the file needs a name"
        ) from error
    fields = dict(form.multi_items())
    for name in fields:
        if name not in FORM_FIELDS:
            raise ValidationError.of(name, f"is not a known field; known: {', '.join(FORM_FIELDS)}")
        if len(form.getall(name)) > 1:
            raise ValidationError.of(name, "is given more than once")
    return fields


def _names_of(fields: dict[str, Any]) -> UploadRequest:
    """What the form says beside the file. Raises ValidationError."""
    for name, value in fields.items():
        if not isinstance(value, str):
            raise ValidationError.of(name, "must be text, not a file")
    flow_id, starts_flow = None, "flowId" not in fields
    if fields.get("flowId") not in (None, "null"):
        flow_id, starts_flow = flow_of(fields["flowId"])
    meta: Any = {}
    if "meta" in fields:
        try:
            meta = msgspec.json.decode(fields["meta"], type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValidationError.of("meta", "must be a JSON object, as text") from error
    return UploadRequest(
        alias=fields.get("alias"),
        flow_id=flow_id,
        starts_flow=starts_flow,
        flow_alias=fields.get("flowAlias"),
        meta=meta,
    )
