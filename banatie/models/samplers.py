"""Samplers and noise schedules by the names of Stable Diffusion WebUI, and what a model can use.

Pure data: the classes are diffusers', which `painting.schedulers` knows. A sampler is left out that
diffusers has not, or only with a further library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from banatie.models.types import PaintingModel

Predictions = Sequence[str]
ALL: Predictions = ("epsilon", "v_prediction", "sample")
NOISE: Predictions = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Sampler:
    """A sampler of WebUI, as a scheduler of diffusers."""

    name: str
    scheduler: str
    """The class."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    predictions: Predictions = ALL
    """What a model may predict, for this sampler to work with it."""
    has_sigmas: bool = True
    """Whether it takes the noise levels of the schedules Karras and Exponential."""
    aliases: Sequence[str] = ()


SAMPLERS = (
    Sampler("Euler", "EulerDiscreteScheduler", aliases=("k_euler",)),
    Sampler(
        "Euler a",
        "EulerAncestralDiscreteScheduler",
        predictions=NOISE,
        has_sigmas=False,
        aliases=("k_euler_a", "k_euler_ancestral", "Euler ancestral"),
    ),
    Sampler("DPM++ 2M", "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    Sampler("DPM++ 2M SDE", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    Sampler(
        "DPM++ 3M",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 3},
    ),
    Sampler("Heun", "HeunDiscreteScheduler", predictions=NOISE, aliases=("k_heun",)),
    Sampler("DPM2", "KDPM2DiscreteScheduler", predictions=NOISE, aliases=("k_dpm_2",)),
    Sampler("DPM2 a", "KDPM2AncestralDiscreteScheduler", predictions=NOISE, aliases=("k_dpm_2_a",)),
    Sampler("UniPC", "UniPCMultistepScheduler"),
    Sampler("DEIS", "DEISMultistepScheduler"),
    Sampler("DDIM", "DDIMScheduler", has_sigmas=False),
    Sampler("PLMS", "PNDMScheduler", {"skip_prk_steps": True}, NOISE, has_sigmas=False),
    Sampler("LCM", "LCMScheduler", has_sigmas=False),
    Sampler("TCD", "TCDScheduler", has_sigmas=False),
)

_WITHOUT_SIGMAS = {"use_karras_sigmas": False, "use_exponential_sigmas": False}
NOISE_SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "Uniform": {**_WITHOUT_SIGMAS, "timestep_spacing": "linspace"},
    "SGM Uniform": {**_WITHOUT_SIGMAS, "timestep_spacing": "trailing"},
    "Karras": {**_WITHOUT_SIGMAS, "use_karras_sigmas": True},
    "Exponential": {**_WITHOUT_SIGMAS, "use_exponential_sigmas": True},
}
"""By WebUI's names: the settings of a diffusers scheduler."""
WITH_SIGMAS = ("Karras", "Exponential")
AUTOMATIC = "Automatic"
"""The model's own schedule."""


@dataclass(frozen=True)
class SamplerChoice:
    """A sampler, and a noise schedule if not the model's own; by their names here."""

    sampler: str
    schedule: str | None = None

    def settings(self) -> tuple[str, dict[str, Any]]:
        """The scheduler's class, and the settings that replace the model's own."""
        sampler = next(each for each in SAMPLERS if each.name == self.sampler)
        schedule = NOISE_SCHEDULES[self.schedule] if self.schedule else _WITHOUT_SIGMAS
        return sampler.scheduler, {**schedule, **sampler.settings}


class SamplerUnusable(ValueError):
    """No such sampler or schedule, or not with this model; the message says what there is."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def choose_sampler(name: str, schedule: str | None, model: PaintingModel | None) -> SamplerChoice:
    """The sampler and the schedule of these names; `DPM++ 2M Karras` names both.

    Capitals, spaces and signs make no difference. Raises SamplerUnusable.
    """
    sampler, of_name = _find(name)
    if schedule is None or _plain(schedule) == _plain(AUTOMATIC):
        schedule = of_name
    else:
        found = [each for each in NOISE_SCHEDULES if _plain(each) == _plain(schedule)]
        if not found:
            known = ", ".join((AUTOMATIC, *NOISE_SCHEDULES))
            raise SamplerUnusable("scheduler", f"{schedule!r} is not known; there are: {known}")
        [schedule] = found
    if schedule in WITH_SIGMAS and not sampler.has_sigmas:
        able = ", ".join(each.name for each in SAMPLERS if each.has_sigmas)
        raise SamplerUnusable(
            "scheduler", f"{schedule} does not go with {sampler.name}, but with: {able}"
        )
    if model is not None and prediction_type(model) not in sampler.predictions:
        able = ", ".join(each.name for each in usable_samplers(model))
        raise SamplerUnusable(
            "sampler", f"the model {model.name} cannot use {sampler.name}; it can use: {able}"
        )
    return SamplerChoice(sampler.name, schedule)


def usable_samplers(model: PaintingModel | None) -> list[Sampler]:
    """The samplers that work with the model."""
    predicts = prediction_type(model) if model else "epsilon"
    return [each for each in SAMPLERS if predicts in each.predictions]


def prediction_type(model: PaintingModel) -> str:
    """What the model's UNet predicts, as its scheduler's configuration says."""
    if given := model.scheduler.get("prediction_type"):
        return str(given)
    try:
        text = (model.folder / "scheduler" / "scheduler_config.json").read_text("utf-8")
        return str(json.loads(text).get("prediction_type", "epsilon"))
    except (OSError, ValueError, AttributeError):
        # A worker that loads the model says what is wrong with it.
        return "epsilon"


def _find(name: str) -> tuple[Sampler, str | None]:
    """The sampler, and the schedule at the end of its name."""
    for schedule in (None, *NOISE_SCHEDULES):
        for sampler in SAMPLERS:
            names = (sampler.name, *sampler.aliases)
            if any(_plain(f"{each}{schedule or ''}") == _plain(name) for each in names):
                return sampler, schedule
    known = ", ".join(each.name for each in SAMPLERS)
    raise SamplerUnusable("sampler", f"{name!r} is not known; there are: {known}")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()
