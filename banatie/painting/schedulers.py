"""The pipeline's scheduler: which one, under which sampler name, and a fresh one for each picture.

Knows no models and no latents' meaning.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import diffusers
import torch
from diffusers import SchedulerMixin

from banatie.errors import ModelBroken, PaintingError
from banatie.models.types import PaintingModel

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


def sampler_name(scheduler: SchedulerMixin) -> str:
    """The name under which other programs know a scheduler."""
    name = type(scheduler).__name__
    sampler = SAMPLER_NAMES.get(name, name.removesuffix("Scheduler"))
    return f"{sampler} Karras" if scheduler.config.get("use_karras_sigmas") else sampler


def fresh_scheduler(
    scheduler: SchedulerMixin, steps: int, on_pred_x0: Callable[[torch.Tensor], None]
) -> SchedulerMixin:
    """A scheduler with the same configuration and no state, for one picture.

    `on_pred_x0` is called with the predicted final latents of each step, or with the step's
    latents where the scheduler predicts none. Raises PaintingError when the scheduler cannot do
    that many steps.
    """
    fresh = type(scheduler).from_config(scheduler.config)
    try:
        fresh.set_timesteps(steps)
    except ValueError as error:
        raise PaintingError(f"this model cannot paint in {steps} steps: {error}") from error
    original_step = fresh.step

    # The pipeline inspects the signature to learn which arguments the scheduler takes.
    @functools.wraps(original_step)
    def step(
        *arguments: object, return_dict: bool = True, **options: object
    ) -> tuple[torch.Tensor]:
        output = original_step(*arguments, return_dict=True, **options)
        pred_x0 = getattr(output, "pred_original_sample", None)
        on_pred_x0(output.prev_sample if pred_x0 is None else pred_x0)
        return (output.prev_sample,)

    fresh.step = step
    return fresh


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
