"""Installed models in tests: how they are verified, and how they are damaged."""

from __future__ import annotations

from pathlib import Path

from banatie.models.manage import verify
from banatie.models.types import Entry


def states(entry: Entry) -> dict[str, str]:
    return {verdict.name: verdict.state for verdict in verify(entry) if verdict.state != "ok"}


def flip_last_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
