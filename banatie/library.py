"""What a client can do with images and flows, whatever the protocol.

Every method may wait for the disk, and an upload is decoded, so the API calls them in threads.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from banatie.checks import SubmissionChecks
from banatie.errors import FlowNotFound, PayloadTooLarge, ValidationError
from banatie.imaging.uploads import FIELD, Upload, decode_upload
from banatie.limits import MAX_UPLOAD_BYTES
from banatie.records import Flow, FocalPoint, Image
from banatie.store.aliases import as_uuid, check_alias
from banatie.store.files import Files, image_key
from banatie.store.flows import Flows
from banatie.store.keys import Keys
from banatie.store.project_images import ProjectImages

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UploadRequest:
    """What an uploaded image is called, and where it belongs."""

    alias: str | None = None
    flow_id: str | None = None
    starts_flow: bool = False
    """Without a flow id: whether to offer one, under which a flow can be made later."""
    flow_alias: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageChanges:
    """What a client changes of an image; `changed` names the fields that were given."""

    changed: frozenset[str]
    focal_point: FocalPoint | None = None
    meta: Mapping[str, Any] | None = None


class Library:
    """The images and flows of each project."""

    def __init__(
        self,
        images: ProjectImages,
        flows: Flows,
        keys: Keys,
        files: Files,
        checks: SubmissionChecks,
        clock: Callable[[], int],
        *,
        keep_metadata: bool,
    ) -> None:
        """With `keep_metadata`, an upload keeps what its camera or program has noted in it."""
        self.images = images
        self.flows = flows
        self._keys = keys
        self._files = files
        self._checks = checks
        self._clock = clock
        self._keep_metadata = keep_metadata

    def decode(self, data: bytes, field: str = FIELD) -> Upload:
        """An upload as it is to be stored.

        Raises ValidationError, of the request's `field`, and PayloadTooLarge.
        """
        check_size(len(data))
        return decode_upload(data, keep_metadata=self._keep_metadata, field=field)

    def add(self, project_id: str, upload: Upload, request: UploadRequest) -> Image:
        """Store a decoded upload. Raises ValidationError and AliasConflict."""
        for name, alias in (("alias", request.alias), ("flowAlias", request.flow_alias)):
            if alias is not None:
                check_alias(name, alias)
        if request.flow_alias is not None and not (request.flow_id or request.starts_flow):
            raise ValidationError.of("flowAlias", "needs a flow, and flowId is null")
        self._checks.check_meta(request.meta)
        image_id = str(uuid.uuid4())
        organization = self._keys.organization_of(project_id)
        image = Image(
            id=image_id,
            project_id=project_id,
            storage_key=image_key(
                organization, project_id, image_id, "uploaded", upload.image_format
            ),
            mime_type=upload.mime_type,
            width=upload.width,
            height=upload.height,
            file_size=len(upload.data),
            created_at=self._clock(),
            flow_id=request.flow_id or (str(uuid.uuid4()) if request.starts_flow else None),
            source="uploaded",
            alias=request.alias,
            meta=request.meta,
        )
        with self._files.prepared(image.storage_key, upload.data) as publish:
            self.images.add(
                image,
                flow_exists=bool(request.flow_id or request.flow_alias),
                flow_alias=request.flow_alias,
                publish=publish,
            )
        logger.info("image %s uploaded", image.id)
        return image

    def update_image(self, project_id: str, reference: str, changes: ImageChanges) -> Image:
        """Change an image's focal point or metadata.

        Raises ValidationError, ImageNotFound and AliasNotFound.
        """
        if changes.meta is not None:
            self._checks.check_meta(changes.meta)
        return self.images.update(
            project_id,
            reference,
            focal_point=changes.focal_point,
            meta=changes.meta,
            changed=changes.changed,
        )

    def set_alias(self, project_id: str, reference: str, alias: str | None) -> Image:
        """Give an image this alias, or none.

        Raises ValidationError, ImageNotFound, AliasNotFound and AliasConflict.
        """
        if alias is not None:
            check_alias("alias", alias)
        return self.images.set_alias(project_id, reference, alias)

    def delete_image(self, project_id: str, reference: str) -> Image:
        """Remove an image and its file for good. Raises ImageNotFound and AliasNotFound."""
        image = self.images.delete(project_id, reference, self._clock())
        # After the row: a crash in between leaves a file that the next sweep removes.
        self._files.remove(image.storage_key)
        logger.info("image %s deleted", image.id)
        return image

    def merge_flow_aliases(self, project_id: str, flow_id: str, aliases: Mapping[str, str]) -> Flow:
        """Give images names in a flow; the flow.

        Raises ValidationError, FlowNotFound, ImageNotFound and AliasNotFound.
        """
        for alias in aliases:
            check_alias("aliases", alias)
        return self.flows.merge_aliases(project_id, flow_id, aliases, self._clock())

    def remove_flow_alias(self, project_id: str, flow_id: str, alias: str) -> Flow:
        """Take a name away in a flow; the flow. Raises FlowNotFound and AliasNotFound."""
        return self.flows.remove_alias(project_id, flow_id, alias, self._clock())

    def latest_generation(self, project_id: str, flow_id: str) -> str:
        """The id of the flow's latest generation. Raises FlowNotFound, also if it has none."""
        generation_id = self.flows.latest_generation(project_id, flow_id)
        if generation_id is None:
            raise FlowNotFound(flow_id)
        return generation_id

    def delete_flow(self, project_id: str, flow_id: str) -> None:
        """Remove a flow with what is in it. Raises FlowNotFound."""
        for storage_key in self.flows.delete(project_id, flow_id, self._clock()):
            self._files.remove(storage_key)
        logger.info("flow %s deleted", as_uuid(flow_id))


def check_size(size: int) -> None:
    """Raise PayloadTooLarge for a file of this many bytes if it is too large."""
    if size > MAX_UPLOAD_BYTES:
        raise PayloadTooLarge(
            f"The file is larger than {MAX_UPLOAD_BYTES // 1024 // 1024} MB; make it smaller first"
        )
