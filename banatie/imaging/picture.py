"""An encoded picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """An encoded picture; width and height in pixels."""

    data: bytes
    mime_type: str
    width: int
    height: int
