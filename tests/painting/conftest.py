"""Tiny painting models, and one thread for torch: two that share a core slow each other down."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from banatie.painting.painter import Painter
from tests.support.tiny_painter import load

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def original(tiny_sdxl: Path) -> Path:
    """The folder of a tiny model; never changed."""
    return tiny_sdxl


@pytest.fixture(scope="module")
def painter(original: Path) -> Painter:
    """A painter with that model."""
    return load(original)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, which a test may change."""
    return Path(shutil.copytree(original, tmp_path / "tiny"))
