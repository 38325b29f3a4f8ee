"""The painter on a CUDA device, in its own number formats: what no CPU can show.

`scripts/check-gpu` runs these tests beside its measurements.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from banatie.devices.runtime import Runtime, choose_runtime
from banatie.painting.lora import Lora
from banatie.painting.painter import Painter
from scripts.gpu_check.model import write_lora
from tests.support.tiny_painter import JOB, load, paint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


class Cancelled(Exception):
    """What a step raises to stop a painting."""


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16], ids=str)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    chosen = choose_runtime("auto")
    if request.param == torch.bfloat16 and not torch.cuda.is_bf16_supported(False):
        pytest.skip("this card does not compute in bfloat16")
    return dataclasses.replace(chosen, dtype=request.param)


@pytest.fixture(scope="module")
def painter(runtime: Runtime, tiny_sdxl: Path) -> Painter:
    return load(tiny_sdxl, runtime)


def levels(picture: object) -> np.ndarray:
    return np.asarray(picture).astype(np.float32)


def test_one_request_twice_gives_the_same_bytes(painter: Painter) -> None:
    assert paint(painter) == paint(painter)
    assert paint(painter, seed=1) != paint(painter, seed=2)


def test_a_picture_in_half_precision_is_near_that_of_the_cpu(
    painter: Painter, tiny_sdxl: Path
) -> None:
    picture = levels(painter.paint(JOB, lambda *_: None))
    assert picture.std() > 2, "the picture is of one colour"
    # The noise is drawn on the CPU, so both paint the same picture.
    beside = levels(load(tiny_sdxl).paint(JOB, lambda *_: None))
    assert np.abs(picture - beside).mean() < 5


def test_a_batch_gives_each_seed_its_own_picture(painter: Painter) -> None:
    jobs = [dataclasses.replace(JOB, seed=seed) for seed in range(4)]
    batch = [levels(picture) for picture in painter.paint_batch(jobs, lambda *_: None)]
    for job, picture in zip(jobs, batch, strict=True):
        alone = levels(painter.paint(job, lambda *_: None))
        assert np.abs(picture - alone).mean() < 5
    assert not np.array_equal(batch[0], batch[1])


def test_a_lora_changes_its_picture_and_no_other(painter: Painter, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "lora.safetensors", painter._pipeline.unet)
    before = paint(painter)
    assert paint(painter, loras=(Lora("random", file, 1.0),)) != before
    assert paint(painter) == before


def test_a_painting_stops_within_a_step_and_harms_no_other(painter: Painter) -> None:
    before = paint(painter)
    done = []

    def stop(step: int, steps: int) -> None:
        done.append(step)
        raise Cancelled

    with pytest.raises(Cancelled):
        painter.paint(JOB, stop)
    assert len(done) == 1
    assert paint(painter) == before
