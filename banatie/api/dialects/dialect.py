"""What the middleware has to know of a dialect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from litestar.types import HTTPScope

from banatie.api.errors import EncodedAnswer


@dataclass(frozen=True)
class Dialect:
    """How the requests below one path differ from those of the Banatie API."""

    prefix: str
    form_paths: frozenset[str]
    """The paths whose requests carry a form and not JSON."""
    key_text: Callable[[Mapping[bytes, bytes]], str]
    """The API key in a request's headers; raises Unauthorized where there is none."""
    answer: Callable[[Exception, HTTPScope], EncodedAnswer]
    """What an exception is answered with."""
