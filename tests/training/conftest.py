"""Makes the training of the embedded model importable, with icons drawn on the spot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))


@pytest.fixture(scope="session")
def icons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an icon file that has a two-coloured disc under every name."""
    from training.things import OBJECTS

    body = '<circle cx="16" cy="16" r="14" fill="#c83"/><circle cx="12" cy="12" r="3" fill="#fff"/>'
    path = tmp_path_factory.mktemp("icons") / "icons.json"
    path.write_text(
        json.dumps({"icons": {thing.icon: {"body": body} for thing in OBJECTS.values()}})
    )
    return path
