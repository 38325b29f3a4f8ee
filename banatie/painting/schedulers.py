"""The pipeline's scheduler: which one, under which sampler name, and a fresh one for each pass.

Knows no models and no latents' meaning.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import diffusers
import torch
from diffusers import PNDMScheduler, SchedulerMixin

from banatie.errors import ModelBroken, PaintingError
from banatie.models.samplers import SamplerChoice
from banatie.models.types import PaintingModel

FINEST_STEPS = 10
"""How finely a schedule of fewer steps may be divided to start in its middle."""

SAMPLER_NAMES = {
    "DDIMScheduler": "DDIM",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "DPMSolverSDEScheduler": "DPM++ SDE",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "EulerDiscreteScheduler": "Euler",
    "HeunDiscreteScheduler": "Heun",
    "LCMScheduler": "LCM",
    "TCDScheduler": "TCD",
    "UniPCMultistepScheduler": "UniPC",
}


def configured_scheduler(scheduler: SchedulerMixin, model: PaintingModel) -> SchedulerMixin:
    """The pipeline's scheduler with the class and settings that the model asks for.

    Raises ModelBroken when diffusers has no such class.
    """
    settings = dict(model.scheduler)
    name = settings.pop("class", type(scheduler).__name__)
    scheduler_class = getattr(diffusers, name, None)
    if scheduler_class is None:
        raise ModelBroken(f"{model.name} asks for the scheduler {name}, which diffusers lacks")
    return scheduler_class.from_config(scheduler.config, **settings)


def with_sampler(scheduler: SchedulerMixin, choice: SamplerChoice | None) -> SchedulerMixin:
    """A scheduler with the model's own configuration, of the class of another sampler."""
    if choice is None:
        return scheduler
    name, settings = choice.settings()
    scheduler_class = getattr(diffusers, name)
    known = inspect.signature(scheduler_class.__init__).parameters
    config = {each: value for each, value in scheduler.config.items() if each in known}
    config |= {each: value for each, value in settings.items() if each in known}
    return scheduler_class.from_config(config)


def sampler_name(scheduler: SchedulerMixin) -> str:
    """The name under which other programs know a scheduler."""
    name = type(scheduler).__name__
    sampler = SAMPLER_NAMES.get(name, name.removesuffix("Scheduler"))
    return f"{sampler} Karras" if scheduler.config.get("use_karras_sigmas") else sampler


@dataclass(frozen=True)
class Schedule:
    """A scheduler for one pass over a picture, and the timesteps at which the UNet is evaluated."""

    scheduler: SchedulerMixin
    timesteps: torch.Tensor
    steps: int
    """How many steps these are."""


def steps_of(steps: int, denoise: float) -> int:
    """How many of a picture's steps a pass does that denoises this part of the schedule."""
    return steps if denoise >= 1 else max(round(steps * denoise), 1)


def fresh_schedule(scheduler: SchedulerMixin, steps: int, denoise: float, device: str) -> Schedule:
    """A scheduler with the same configuration and no state, which starts where `denoise` says.

    With 1 it does the whole schedule of `steps` steps; with less, only the end of one. That one may
    have a few steps more or less than asked for: models with few steps have few places to start
    from, and so the start comes nearer to the part that is asked for. Raises PaintingError when
    the scheduler cannot do that many steps.
    """
    taken, total = steps_of(steps, denoise), steps
    if denoise < 1:
        most = max(steps, FINEST_STEPS)
        total = max(taken, min(round(taken / max(denoise, 1 / most)), most))
    options = {}
    if isinstance(scheduler, PNDMScheduler) and taken < total:
        # Its Runge-Kutta steps can only be the first of a whole schedule.
        options = {"skip_prk_steps": True}
    fresh = type(scheduler).from_config(scheduler.config, **options)
    try:
        fresh.set_timesteps(total, device=device)
    except ValueError as error:
        raise PaintingError(f"this model cannot paint in {steps} steps: {error}") from error
    first = (total - taken) * fresh.order
    timesteps = fresh.timesteps[first:]
    if isinstance(scheduler, PNDMScheduler) and taken < total:
        # It evaluates its second timestep twice, of whatever schedule it begins with.
        ends = fresh.timesteps[-taken:]
        timesteps = torch.cat([ends[:2], ends[1:]])
    if hasattr(fresh, "set_begin_index"):
        fresh.set_begin_index(first)
    return Schedule(fresh, timesteps, taken)


def steps_done(evaluations: int, total_evaluations: int, steps: int, order: int) -> int | None:
    """How many steps are complete after some evaluations of the UNet; None inside a step.

    Schedulers of order 2 evaluate the UNet twice per step, and some once more at the start.
    """
    if evaluations == total_evaluations:
        return steps
    warm_up = max(total_evaluations - steps * order, 0)
    if evaluations > warm_up and (evaluations - warm_up) % order == 0:
        return (evaluations - warm_up) // order
    return None
