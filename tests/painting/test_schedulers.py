"""Schedulers: names, reported steps, and which one a model uses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from banatie.errors import ModelBroken, PaintingError
from banatie.models.validate import SCHEDULERS
from banatie.painting.painter import Painter
from tests.support.tiny_models import edit_json
from tests.support.tiny_painter import (
    FULL,
    JOB,
    load,
    paint,
    recorder,
    tiny_model,
    use_scheduler,
)


@pytest.mark.parametrize(
    "scheduler", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "PNDMScheduler"]
)
def test_each_step_is_reported_once_and_in_order(folder: Path, scheduler: str) -> None:
    use_scheduler(folder, scheduler)
    # PNDM for Stable Diffusion leaves its warm-up steps out; others do not know the setting.
    edit_json(folder / "scheduler" / "scheduler_config.json", skip_prk_steps=True)
    painter = load(folder)
    for number in (1, 4):
        reported: list[tuple[int, int]] = []
        painter.paint(dataclasses.replace(JOB, steps=number), recorder(reported))
        assert reported == [(step, number) for step in range(1, number + 1)]


# Of diffusers' own use of numpy.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_each_scheduler_that_an_import_accepts_paints(folder: Path, scheduler: str) -> None:
    use_scheduler(folder, scheduler)
    if scheduler.startswith("EDM"):
        # The noise levels have other meanings there, and no default.
        config = folder / "scheduler" / "scheduler_config.json"
        edit_json(config, sigma_min=0.002, sigma_max=80.0)
    assert paint(load(folder), steps=4)


def test_more_steps_than_the_scheduler_knows_are_refused(folder: Path) -> None:
    use_scheduler(folder, "LCMScheduler")
    painter = load(folder)
    with pytest.raises(PaintingError, match="cannot paint in 100 steps"):
        paint(painter, steps=100)
    assert paint(painter, guidance_scale=1.0)


def test_the_sampler_has_the_name_that_others_know(painter: Painter, folder: Path) -> None:
    assert painter.sampler == "Euler"
    use_scheduler(folder, "PNDMScheduler")
    assert load(folder).sampler == "PNDM"
    use_scheduler(folder, "DPMSolverMultistepScheduler")
    edit_json(folder / "scheduler" / "scheduler_config.json", use_karras_sigmas=True)
    assert load(folder).sampler == "DPM++ 2M Karras"


def test_a_model_s_own_sampler_is_used(original: Path) -> None:
    wanted = {"class": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
    model = tiny_model(original, scheduler=wanted)
    painter = Painter.load(model, FULL)
    assert painter.sampler == "Euler a"
    assert painter._scheduler.config.timestep_spacing == "trailing"
    unknown = dataclasses.replace(model, scheduler={"class": "CrystalBallScheduler"})
    with pytest.raises(ModelBroken, match="CrystalBallScheduler"):
        Painter.load(unknown, FULL)
