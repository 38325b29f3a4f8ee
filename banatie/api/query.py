"""Query parameters: only those that a route knows, and each once.

Litestar ignores unknown ones and takes one of several, so that a misspelt `soft` would delete for
good. What a parameter means, and its range, is for the routes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qsl

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler

from banatie.errors import ValidationError


async def check_query(
    connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
) -> None:
    """Litestar's guard for a router, whose handlers list their parameters in `opt["query"]`.

    Raises ValidationError naming the parameter.
    """
    if text := connection.scope["query_string"]:
        read_query(text, handler.opt.get("query", ()))


def read_query(query: bytes, known: Collection[str]) -> dict[str, str]:
    """The parameters of a query string. Raises ValidationError naming the parameter."""
    read: dict[str, str] = {}
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError as error:
        raise ValidationError("The query is not UTF-8") from error
    for name, value in pairs:
        if name not in known:
            options = f"; known here: {', '.join(known)}" if known else "; there are none here"
            raise ValidationError.of(name, f"is not a known query parameter{options}")
        if name in read:
            raise ValidationError.of(name, "is given more than once")
        read[name] = value
    return read
