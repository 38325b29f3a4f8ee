"""Are the pictures right? Finite, repeatable, near the CPU's, and undisturbed by what came before."""

from __future__ import annotations

import dataclasses

import torch

from banatie.devices.runtime import choose_runtime
from banatie.models.catalog import Catalog
from banatie.painting.lora import Lora
from banatie.painting.painter import Painter, PaintJob
from scripts.gpu_check.context import (
    PROMPT,
    Context,
    describe_picture,
    difference,
    ignore,
    picture_bytes,
)
from scripts.gpu_check.model import write_lora


class _Cancelled(Exception):
    """What a step raises to stop a painting."""


def run(context: Context) -> None:
    """All steps, the most important first."""
    step = context.recorder.step
    painter = step("load", context.load, needs=20)
    if painter is None:
        return
    job = context.job(steps=8)
    first = step("one picture, default format", lambda: _described(painter, job, context))
    if first:
        step("the same bytes twice", lambda: _repeated(painter, job))
        step("a batch of 4", lambda: _batch(painter, job))
        step("previews", lambda: _previews(painter, job))
        step("cancelled in a step", lambda: _cancelled(painter, job))
        step("LoRA on and off", lambda: _lora(painter, job, context))
    del painter
    step("banatie-small beside the CPU", lambda: _beside_cpu(context), needs=10)
    if context.is_cuda:
        step("float16", lambda: _float16(context), needs=15)


def _described(painter: Painter, job: PaintJob, context: Context) -> dict:
    picture = painter.paint(job, ignore)
    picture.save(context.folder / "picture.png")
    return {**describe_picture(picture), "dtype": str(context.runtime.dtype)}


def _repeated(painter: Painter, job: PaintJob) -> dict:
    pictures = [painter.paint(job, ignore) for _ in range(2)]
    return {
        "same": picture_bytes(pictures[0]) == picture_bytes(pictures[1]),
        "difference": difference(*pictures),
    }


def _batch(painter: Painter, job: PaintJob) -> dict:
    jobs = [dataclasses.replace(job, seed=seed) for seed in range(1, 5)]
    batch = painter.paint_batch(jobs, ignore)
    alone = painter.paint(jobs[0], ignore)
    return {
        "pictures": len({picture_bytes(picture) for picture in batch}),
        "difference to alone": difference(batch[0], alone),
    }


def _previews(painter: Painter, job: PaintJob) -> dict:
    sizes = []
    previewed = painter.paint(job, lambda *_: sizes.append([p.size for p in painter.previews()]))
    plain = painter.paint(job, ignore)
    return {"same": picture_bytes(previewed) == picture_bytes(plain), "sizes": str(sizes[-1])}


def _cancelled(painter: Painter, job: PaintJob) -> dict:
    before = picture_bytes(painter.paint(job, ignore))

    def stop(done: int, of: int) -> None:
        raise _Cancelled

    try:
        painter.paint(job, stop)
    except _Cancelled:
        stopped = True
    else:
        stopped = False
    return {"stopped": stopped, "same": before == picture_bytes(painter.paint(job, ignore))}


def _lora(painter: Painter, job: PaintJob, context: Context) -> dict:
    file = write_lora(context.folder / "lora.safetensors", painter._pipeline.unet)
    with_lora = dataclasses.replace(job, loras=(Lora("random", file, 1.0),))
    before = painter.paint(job, ignore)
    during = painter.paint(with_lora, ignore)
    file.unlink()
    after = painter.paint(job, ignore)
    return {
        "same after": picture_bytes(before) == picture_bytes(after),
        "changed by": difference(before, during),
    }


def _beside_cpu(context: Context) -> dict:
    model = Catalog(context.folder).painting_model("banatie-small")
    width, height = model.sizes["1:1"]
    job = PaintJob(PROMPT, "", width, height, model.steps, model.guidance_scale, 1)
    cpu = dataclasses.replace(
        context.runtime, device="cpu", dtype=torch.float32, language_dtype=torch.float32
    )
    ours = Painter.load(model, context.runtime).paint(job, ignore)
    theirs = Painter.load(model, cpu).paint(job, ignore)
    ours.save(context.folder / "small-gpu.png")
    theirs.save(context.folder / "small-cpu.png")
    return {"difference": difference(ours, theirs), **describe_picture(ours)}


def _float16(context: Context) -> dict:
    half = dataclasses.replace(choose_runtime(context.runtime.device), dtype=torch.float16)
    painter = Painter.load(context.model, half)
    return describe_picture(painter.paint(context.job(steps=8), ignore))
