"""The UNet recorded as a CUDA graph paints what it paints without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from banatie.devices.runtime import choose_runtime
from banatie.painting.lora import Lora
from banatie.painting.painter import Painter
from scripts.gpu_check.model import write_lora
from tests.support.tiny_painter import load, paint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


@pytest.fixture
def painter(tiny_sdxl: Path) -> Painter:
    return load(tiny_sdxl, choose_runtime("auto"))


@pytest.fixture
def unrecorded(painter: Painter) -> bytes:
    painter.uses_graphs = False
    picture = paint(painter)
    painter.uses_graphs = True
    return picture


def test_a_replayed_picture_is_the_same(painter: Painter, unrecorded: bytes) -> None:
    assert paint(painter) == unrecorded, "while it is recorded"
    assert paint(painter) == unrecorded, "replayed"
    assert paint(painter, seed=2) != unrecorded
    assert painter._denoiser.graphs._recorded


def test_weights_that_were_moved_are_recorded_anew(painter: Painter, unrecorded: bytes) -> None:
    paint(painter)
    painter.move_to("cpu")
    assert not painter._denoiser.graphs._recorded
    painter.move_to(painter._runtime.device)
    assert paint(painter) == unrecorded


def test_a_lora_is_painted_and_leaves_nothing(
    painter: Painter, unrecorded: bytes, tmp_path: Path
) -> None:
    paint(painter)
    file = write_lora(tmp_path / "lora.safetensors", painter._pipeline.unet)
    assert paint(painter, loras=(Lora("lora", file, 1.0),)) != unrecorded
    assert paint(painter) == unrecorded
