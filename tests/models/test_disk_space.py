"""Sizes as text."""

from __future__ import annotations

import pytest

from banatie.models.disk_space import format_bytes


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "2 kB"), (39_100_000, "39.1 MB"), (7e9, "7.0 GB")],
)
def test_sizes_are_told_as_people_say_them(number: float, text: str) -> None:
    assert format_bytes(number) == text
