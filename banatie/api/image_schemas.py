"""The JSON schemas of images and flows in answers, and how records become them."""

from __future__ import annotations

from typing import Any

from banatie.api.schemas import Id, Time, Url, Wire, storage_url, timestamp
from banatie.records import Flow, Image, ImageSource


class FocalPointView(Wire):
    """The point of an image that matters most, each coordinate from 0 to 1."""

    x: float
    y: float


class ImageView(Wire):
    """An image as a client sees it."""

    id: Id
    project_id: Id
    flow_id: Id | None
    generation_id: Id | None
    storage_key: str
    storage_url: Url
    mime_type: str
    file_size: int
    width: int
    height: int
    source: ImageSource
    alias: str | None
    focal_point: FocalPointView | None
    meta: dict[str, Any]
    created_at: Time


class FlowView(Wire):
    """A flow as a client sees it."""

    id: Id
    project_id: Id
    aliases: dict[str, str]
    generation_count: int
    image_count: int
    created_at: Time
    updated_at: Time


class DeletedImage(Wire):
    """An image that is deleted."""

    id: Id


def image_view(image: Image, public_url: str) -> ImageView:
    """The image as a client sees it, with its URL below `public_url`."""
    point = image.focal_point
    return ImageView(
        id=image.id,
        project_id=image.project_id,
        flow_id=image.flow_id,
        generation_id=image.generation_id,
        storage_key=image.storage_key,
        storage_url=storage_url(image.storage_key, public_url),
        mime_type=image.mime_type,
        file_size=image.file_size,
        width=image.width,
        height=image.height,
        source=image.source,
        alias=image.alias,
        focal_point=FocalPointView(point.x, point.y) if point else None,
        meta=dict(image.meta),
        created_at=timestamp(image.created_at),
    )


def flow_view(flow: Flow) -> FlowView:
    """The flow as a client sees it."""
    return FlowView(
        id=flow.id,
        project_id=flow.project_id,
        aliases=dict(flow.aliases),
        generation_count=flow.generation_count,
        image_count=flow.image_count,
        created_at=timestamp(flow.created_at),
        updated_at=timestamp(flow.updated_at),
    )
