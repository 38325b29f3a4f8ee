"""The file server for images: /storage/….

The URL itself is the permission: it holds the random id of an image, and nothing but a well-formed
storage key is ever looked up, which rules out path traversal.
"""

from __future__ import annotations

import re

from litestar.enums import ScopeType
from litestar.exceptions import MethodNotAllowedException, NotFoundException
from litestar.types import ASGIApp, Receive, Scope, Send

from banatie.api.dependencies import in_thread
from banatie.api.errors import send_failure
from banatie.api.file_response import file_failure, send_file, status_of
from banatie.store.files import FOLDERS, Files

PREFIX = "/storage/"
HEADERS = {
    # The same URL may get new bytes when a generation is made again: caches must revalidate.
    "cache-control": "no-cache",
}

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_STORAGE_KEY = re.compile(
    rf"[a-z0-9][a-z0-9-]{{0,63}}/{_UUID}/(?:{'|'.join(FOLDERS)})/{_UUID}\.(?P<suffix>png|jpg|webp)"
)
_MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}


class ImageFiles:
    """An ASGI application around `app` that answers requests below /storage/ itself.

    Around Litestar and not in it: a file needs no routing, parameters or response object.
    """

    def __init__(self, app: ASGIApp, files: Files) -> None:
        self._app = app
        self._files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, or an error."""
        if scope["type"] != ScopeType.HTTP or not scope["path"].startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        scope["path_template"] = PREFIX + "{storage_key}"
        if scope["method"] != "GET":
            error = MethodNotAllowedException(headers={"allow": "GET"})
            await send_failure(error, scope, send)
            return
        storage_key = scope["path"].removeprefix(PREFIX)
        known = _STORAGE_KEY.fullmatch(storage_key)
        if known is None:
            await send_failure(NotFoundException(), scope, send)
            return
        path = self._files.path(storage_key)
        try:
            status = await in_thread(status_of, path)
        except OSError as error:
            await send_failure(file_failure(error), scope, send)
            return
        headers = {**HEADERS, "content-type": _MEDIA_TYPES[known["suffix"]]}
        await send_file(path, status, scope, send, headers)
