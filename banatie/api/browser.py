"""What a browser sends and gets on its own account: the session cookie, and its page's origin.

A browser adds the cookie to every request for this host, whichever page makes it. So a request that
changes something counts only if the page is this server's own (CSRF): `SameSite=Strict` allows
pages of other ports of this host, which are the same site.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from banatie.errors import Forbidden

COOKIE = "banatie_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def cookie_of(headers: dict[bytes, bytes]) -> str | None:
    """The session cookie of a request, if it has one."""
    for pair in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE and value:
            return value
    return None


def require_own_page(headers: dict[bytes, bytes], base_url: str, *, needed: bool) -> None:
    """Raise Forbidden if a page of another origin makes the request.

    With `needed`, also if the headers do not tell whose page it is.
    """
    fetched_from = headers.get(b"sec-fetch-site", b"").decode("latin-1")
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    # A browser sends Sec-Fetch-Site over TLS and to this machine, and the origin with every change.
    # Of the two, only the first knows the address in front of a proxy that changes the host.
    if fetched_from:
        is_own = fetched_from in ("same-origin", "none")
    elif origin:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        is_own = origin in (f"http://{host}", f"https://{host}", _origin(base_url))
    else:
        is_own = not needed
    if not is_own:
        raise Forbidden(
            "A session is for pages of this server; other programs send an API key in X-API-Key. "
            "Behind a proxy, set server.public_url to the address that browsers use"
        )


def set_cookie(value: str, seconds: int, headers: dict[bytes, bytes], base_url: str) -> str:
    """The Set-Cookie header for the address at which the browser sees the server.

    That is `base_url` (`server.public_url`) if the page's origin is that one's; under it the cookie
    has the path of the page, so that other applications of the host do not get it.
    """
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    is_public = bool(base_url) and (not origin or origin == _origin(base_url))
    path = f"{urlsplit(base_url).path.rstrip('/')}/" if is_public else "/"
    secure = (base_url if is_public else origin).lower().startswith("https:")
    parts = [f"{COOKIE}={value}", f"Path={path}", f"Max-Age={seconds}", "HttpOnly"]
    return "; ".join([*parts, "SameSite=Strict", *(["Secure"] if secure else [])])


def _origin(url: str) -> str:
    """The origin of a URL as browsers send it: without the scheme's own port."""
    parts = urlsplit(url.lower())
    default = {"http": 80, "https": 443}.get(parts.scheme)
    host = parts.hostname or ""
    name = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return f"{parts.scheme}://{name}{port}"
