"""A painter with a tiny model, one small job, and ways to look into a painting."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from banatie.devices.memory_plan import ALL_RESIDENT, Plan
from banatie.devices.runtime import Runtime
from banatie.models.types import PaintingModel
from banatie.painting.painter import OnStep, Painter, PaintJob
from tests.support.tiny_models import edit_json

FULL = Runtime("cpu", torch.float32, torch.float32)
HALF = Runtime("cpu", torch.float16, torch.float16)
JOB = PaintJob(
    prompt="a red cat on the road, soft light",
    negative_prompt="",
    width=48,
    height=32,
    steps=3,
    guidance_scale=5.0,
    seed=2**53 - 1,
)
LONG = ", ".join(["a red cat on the road in soft light"] * 12)


def tiny_model(folder: Path, **changes: object) -> PaintingModel:
    """The catalog entry of a tiny model's folder."""
    model = PaintingModel("tiny", "Tiny", "none", 3, 5.0, {"1:1": (128, 128)}, folder)
    return dataclasses.replace(model, **changes)


def load(
    folder: Path, runtime: Runtime = FULL, plan: Plan = ALL_RESIDENT, compiled: bool = False
) -> Painter:
    """The painter of a tiny model's folder."""
    return Painter.load(tiny_model(folder), runtime, plan, compiled)


def paint(painter: Painter, **changes: object) -> bytes:
    """The bytes of the job's picture, with some of its fields changed."""
    return painter.paint(dataclasses.replace(JOB, **changes), lambda step, steps: None).tobytes()


@contextlib.contextmanager
def hooked(module: torch.nn.Module, hook: object) -> Iterator[None]:
    """Call `hook` with the module's outputs; what it returns replaces them."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def recorder(reported: list[tuple[int, int]]) -> OnStep:
    """An `on_step` that appends what it is called with."""
    return lambda step, steps: reported.append((step, steps))


def change_weights(file: Path, name: str, factor: float) -> None:
    """Multiply one tensor of a file."""
    weights = load_file(file)
    weights[name] = weights[name] * factor
    save_file(weights, file, {"format": "pt"})


def use_scheduler(folder: Path, name: str) -> None:
    """Give a model's folder another scheduler."""
    edit_json(folder / "model_index.json", scheduler=["diffusers", name])
    edit_json(folder / "scheduler" / "scheduler_config.json", _class_name=name)
