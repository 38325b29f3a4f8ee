"""What differs before a route is reached: HTTP Basic with the key as password, and the errors."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Callable, Mapping, Sequence

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from banatie.api.client_address import ClientAddresses
from banatie.api.dependencies import in_thread
from banatie.api.dialects.dialect import Dialect
from banatie.api.errors import EncodedAnswer, answer_to
from banatie.api.schemas import encode
from banatie.records import DEFAULT_SLUG, Key
from banatie.store.projects import Projects

WEBUI_PREFIX = "/sdapi/v1"
OPEN_KEY_ID = "webui-without-key"


class WebuiAccess:
    """An ASGI application around the middleware that lets some addresses in without a key."""

    def __init__(
        self,
        app: ASGIApp,
        addresses: ClientAddresses,
        open_to: Sequence[str],
        projects: Projects,
        clock: Callable[[], int],
    ) -> None:
        """`open_to` are the addresses and networks that need no key."""
        self._app = app
        self._addresses = addresses
        self._open_to = [ipaddress.ip_network(each, strict=False) for each in open_to]
        self._projects = projects
        self._clock = clock
        self._open_key: Key | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if (
            scope["type"] == ScopeType.HTTP
            and is_webui(scope["path"])
            and self._is_open_to(scope, dict(scope["headers"]))
        ):
            scope.setdefault("state", {})["open_key"] = await self._key()
        await self._app(scope, receive, send)

    def _is_open_to(self, scope: HTTPScope, headers: Mapping[bytes, bytes]) -> bool:
        # A browser on such a machine shows pages of anybody, and says so with these.
        if key_text(headers) or b"origin" in headers or b"sec-fetch-site" in headers:
            return False
        address = self._addresses.exact_address_of(scope) if self._open_to else None
        return address is not None and any(address in network for network in self._open_to)

    async def _key(self) -> Key:
        """Stands for a key of the default project, and is not counted."""
        if self._open_key is None:
            now = self._clock()
            project = await in_thread(self._projects.create, DEFAULT_SLUG, DEFAULT_SLUG, now)
            self._open_key = Key(
                OPEN_KEY_ID, project, "project", "without a key", "", 0, created_at=now
            )
        return self._open_key


def is_webui(path: str) -> bool:
    """Whether a path belongs to this dialect."""
    return path.startswith(f"{WEBUI_PREFIX}/") or path == WEBUI_PREFIX


def password_of(authorization: bytes) -> str:
    """The password of an `Authorization: Basic` header, or the token of a Bearer one; else empty.

    Some clients send an empty header when nobody has entered a password.
    """
    scheme, _, credentials = authorization.strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return credentials.strip().decode("latin-1")
    if scheme.lower() != b"basic":
        return ""
    try:
        text = base64.b64decode(credentials.strip(), validate=True).decode("latin-1")
    except (binascii.Error, ValueError):
        return ""
    user, _, password = text.partition(":")
    # A client with a single field for both sends the key as either.
    return password or user


def key_text(headers: Mapping[bytes, bytes]) -> str:
    """The key in a request's headers; empty where there is none."""
    text = headers.get(b"x-api-key", b"").decode("latin-1")
    return text or password_of(headers.get(b"authorization", b""))


def answer(error: Exception, scope: HTTPScope) -> EncodedAnswer:
    """An error as WebUI answers it: its name, and the text that clients show."""
    status, body, headers = answer_to(error, scope)
    shown = {"error": body.code, "detail": body.message, "body": "", "errors": body.message}
    return status, encode(shown), headers


WEBUI = Dialect(WEBUI_PREFIX, frozenset(), key_text, answer)
