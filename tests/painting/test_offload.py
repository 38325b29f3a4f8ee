"""Offloading: the text encoders are on the device only to read a new text."""

from __future__ import annotations

from pathlib import Path

import pytest

from banatie.devices.memory_plan import Plan
from tests.support.tiny_painter import FULL, load, paint


def test_offloaded_encoders_are_moved_to_the_device_for_a_new_text_only(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painter = load(original, FULL, Plan("offload-encoders"))
    moves: list[str] = []
    offload = painter._offload
    move = offload.move_encoders
    monkeypatch.setattr(offload, "move_encoders", lambda to: (moves.append(to), move(to)))
    paint(painter, negative_prompt="dark")
    assert moves == ["cpu", "cpu"] * 2
    paint(painter, negative_prompt="dark", seed=1)
    assert len(moves) == 4
    paint(painter, negative_prompt="bright")
    assert len(moves) == 6
