"""Tiny language models, and one thread for torch: two that share a core slow each other down."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from banatie.enhancement.enhancer import Enhancer
from tests.support.word_llama import build, load

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model; never changed."""
    return build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def untrained(folder: Path) -> Enhancer:
    """An enhancer in the guided mode whose model has random weights."""
    return load(folder)
