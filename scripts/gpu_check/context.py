"""What every group works with: the runtime, the model, jobs, and a clock that waits for the GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from banatie.devices.memory_plan import ALL_RESIDENT, Plan
from banatie.devices.runtime import Runtime, choose_runtime, free_memory
from banatie.models.catalog import Catalog
from banatie.models.types import PaintingModel
from banatie.painting.painter import Painter, PaintJob
from scripts.gpu_check.results import Recorder, wrong_unless

ONE_COLOUR = 2.0
"""The deviation of levels, of 255, below which a picture shows nothing."""
NEAR = 5.0
"""The mean difference of levels, of 255, that rounding in half precision may make."""
PROMPT = "a red sports car on a mountain road"


@dataclass(frozen=True)
class Context:
    """One group's surroundings."""

    recorder: Recorder
    runtime: Runtime
    model: PaintingModel
    folder: Path
    """For files that the steps write."""
    tiny: bool
    batches: tuple[int, ...]

    @classmethod
    def of(cls, recorder: Recorder, folder: Path, model: Path, tiny: bool) -> Context:
        """The context of a group on the best device of this machine."""
        runtime = choose_runtime("cpu" if tiny else "auto")
        found = Catalog(model.parent).painting_model(str(model))
        return cls(recorder, runtime, found, folder, tiny, (2,) if tiny else (2, 4, 8))

    @property
    def is_cuda(self) -> bool:
        """Whether there is a card."""
        return self.runtime.device.startswith("cuda")

    def load(self, plan: Plan = ALL_RESIDENT, compiled: bool = False) -> Painter:
        """Load the model as the worker does."""
        free_memory(self.runtime.device)
        return Painter.load(self.model, self.runtime, plan, compiled)

    def job(self, steps: int = 30, guidance: float = 5.0, seed: int = 1, **other: Any) -> PaintJob:
        """A job of the model's square size."""
        width, height = self.model.sizes["1:1"]
        return PaintJob(PROMPT, "", width, height, steps, guidance, seed, **other)

    def synchronize(self) -> None:
        """Wait until the device has computed everything."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], rounds: int = 3, warm: int = 1) -> float:
        """The median seconds of some rounds after `warm` unmeasured ones."""
        taken = []
        for number in range(warm + rounds):
            self.synchronize()
            started = time.perf_counter()
            work()
            self.synchronize()
            if number >= warm:
                taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    def peak(self, work: Callable[[], object]) -> float:
        """The device's peak memory in GB while the work was done; 0 without a card."""
        if not self.is_cuda:
            work()
            return 0.0
        torch.cuda.reset_peak_memory_stats()
        work()
        return round(torch.cuda.max_memory_allocated() / 1e9, 2)


def ignore(*_: object) -> None:
    """A step that nobody watches."""


def picture_bytes(picture: Image.Image) -> bytes:
    """The picture's pixels."""
    return picture.tobytes()


def describe_picture(picture: Image.Image) -> dict[str, Any]:
    """The mean and the deviation of the picture's levels, wrong where it is of one colour.

    Values that are not finite are an error of the painter, not a picture.
    """
    levels = np.asarray(picture).astype(np.float32)
    deviation = round(float(levels.std()), 1)
    figures = {"mean": round(float(levels.mean()), 1), "deviation": deviation}
    return figures | wrong_unless((deviation >= ONE_COLOUR, "the picture is of one colour"))


def difference(one: Image.Image, other: Image.Image) -> float:
    """The mean absolute difference of two pictures' levels, of 255."""
    pair = [np.asarray(picture).astype(np.float32) for picture in (one, other)]
    return round(float(np.abs(pair[0] - pair[1]).mean()), 2)
