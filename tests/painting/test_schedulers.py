"""Schedulers: names, reported steps, and which one a model uses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from banatie.errors import ModelBroken, PaintingError
from banatie.models.samplers import (
    NOISE_SCHEDULES,
    SAMPLERS,
    WITH_SIGMAS,
    SamplerChoice,
)
from banatie.models.validate import SCHEDULERS
from banatie.painting.denoising import DenoisingPass
from banatie.painting.painter import Painter
from banatie.painting.schedulers import fresh_schedule, steps_of, with_sampler
from tests.support.tiny_models import edit_json
from tests.support.tiny_painter import (
    FULL,
    JOB,
    hooked,
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


STOCHASTIC = (
    *("DDPMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
    *("LCMScheduler", "SASolverScheduler", "TCDScheduler"),
)


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if "EDM" not in name])
def test_a_model_that_knows_the_noise_finds_the_reference(folder: Path, scheduler: str) -> None:
    use_scheduler(folder, scheduler)
    painter = load(folder)
    noise = torch.randn((1, 4, 8, 12), generator=torch.Generator().manual_seed(7))
    # Some clip what they predict to this range.
    reference = torch.rand((1, 4, 8, 12), generator=torch.Generator().manual_seed(8)) * 2 - 1
    positive, _ = painter._encoder.encode_batch(["a cat"], [])
    for denoise, taken in ((0.0, 1), (0.5, 4), (1.0, 8)):
        asked = DenoisingPass(8, 12, 8, 1.0, [7], positive, None, denoise, reference)
        done: list[int] = []
        with torch.inference_mode(), hooked(painter._pipeline.unet, lambda *_: (noise,)):
            found = painter._denoiser.run(asked, done.append)
        assert done == list(range(1, taken + 1))
        error = float((found - reference).abs().max())
        if denoise == 1.0:
            assert error > 1
        elif denoise == 0.0 or scheduler not in STOCHASTIC:
            # Some end with the noise of the first timestep. Those with noise of their own are left
            # with it but for the last step.
            assert error < 0.1


@pytest.mark.parametrize(
    ("steps", "denoise", "taken", "begin"),
    [(30, 0.5, 15, 0.5), (30, 1.0, 30, 1.0), (4, 0.5, 2, 0.5), (4, 0.7, 3, 0.75), (4, 0.4, 2, 0.4),
     (4, 0.1, 1, 0.1), (4, 0.0, 1, 0.1), (1, 0.5, 1, 0.5), (30, 0.01, 1, 1 / 30)],
)  # fmt: skip
def test_a_schedule_begins_where_the_reference_ends(
    steps: int, denoise: float, taken: int, begin: float
) -> None:
    scheduler = EulerDiscreteScheduler(timestep_spacing="trailing")
    schedule = fresh_schedule(scheduler, steps, denoise, "cpu")
    assert schedule.steps == len(schedule.timesteps) == taken == steps_of(steps, denoise)
    assert float(schedule.timesteps[0]) == pytest.approx(1000 * begin, abs=2)


def combinations() -> list[tuple[str, SamplerChoice]]:
    """What a model predicts, and each choice that goes with it."""
    return [
        (prediction, SamplerChoice(sampler.name, schedule))
        for sampler in SAMPLERS
        for prediction in sampler.predictions
        for schedule in (None, *NOISE_SCHEDULES)
        if sampler.has_sigmas or schedule not in WITH_SIGMAS
    ]


# Of diffusers' own use of numpy.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.parametrize("denoise", [1.0, 0.4])
def test_each_sampler_goes_with_its_schedules_and_predictions(denoise: float) -> None:
    for prediction, choice in combinations():
        # Of the bundled model but for the prediction; only it can begin without any signal.
        base = DDIMScheduler(
            beta_schedule="scaled_linear",
            prediction_type=prediction,
            clip_sample=False,
            rescale_betas_zero_snr=prediction == "sample",
            timestep_spacing="trailing",
        )
        schedule = fresh_schedule(with_sampler(base, choice), 8, denoise, "cpu")
        latents = torch.randn(1, 4, 4, 4) * schedule.scheduler.init_noise_sigma
        if denoise < 1:
            start = schedule.timesteps[:1]
            latents = schedule.scheduler.add_noise(torch.zeros(1, 4, 4, 4), latents, start)
        for timestep in schedule.timesteps:
            scaled = schedule.scheduler.scale_model_input(latents, timestep)
            latents = schedule.scheduler.step(scaled * 0.5, timestep, latents).prev_sample
        assert torch.isfinite(latents).all(), (prediction, choice)


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
def test_a_job_is_painted_with_its_sampler(folder: Path) -> None:
    painter = load(folder)
    own = paint(painter)
    euler, ancestral, karras = (
        paint(painter, sampler=choice)
        for choice in (
            SamplerChoice("Euler"),
            SamplerChoice("Euler a"),
            SamplerChoice("DPM++ 2M", "Karras"),
        )
    )
    assert len({euler, ancestral, karras}) == 3
    assert paint(painter) == own


def test_a_sampler_keeps_the_settings_of_the_model(folder: Path) -> None:
    config = folder / "scheduler" / "scheduler_config.json"
    edit_json(config, timestep_spacing="trailing", beta_end=0.02)
    own = load(folder)._scheduler
    euler = with_sampler(own, SamplerChoice("Euler a"))
    assert (euler.config.timestep_spacing, euler.config.beta_end) == ("trailing", 0.02)
    karras = with_sampler(own, SamplerChoice("DPM++ 2M", "Karras"))
    assert karras.config.use_karras_sigmas
    assert not with_sampler(karras, SamplerChoice("DPM++ 2M")).config.use_karras_sigmas
