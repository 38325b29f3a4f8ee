"""Are the pictures right? Finite, repeatable, near the CPU's, unharmed by what came before."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import torch

from banatie.devices.runtime import choose_runtime
from banatie.models.catalog import Catalog
from banatie.painting.lora import Lora
from banatie.painting.painter import Painter, PaintJob
from scripts.gpu_check.context import (
    NEAR,
    PROMPT,
    Context,
    describe_picture,
    difference,
    ignore,
    picture_bytes,
)
from scripts.gpu_check.model import write_lora
from scripts.gpu_check.results import wrong_unless


class _Cancelled(Exception):
    """What a step raises to stop a painting."""


def run(context: Context) -> None:
    """All steps, the most important first."""
    step = context.recorder.step
    painter = step("load", context.load, needs=20)
    if painter is not None:
        _one_painter(context, painter)
    painter = None
    step("banatie-small beside the CPU", lambda: _beside_cpu(context), needs=10)
    if context.is_cuda:
        step("float16", lambda: _float16(context), needs=12)
        step("tests/gpu", lambda: _tests(context), needs=20)


def _one_painter(context: Context, painter: Painter) -> None:
    step = context.recorder.step
    job = context.job(steps=4)
    if step("one picture, default format", lambda: _described(painter, job, context)):
        step("the same bytes twice", lambda: _repeated(painter, job))
        step("a batch of 4", lambda: _batch(painter, job))
        step("LoRA on and off", lambda: _lora(painter, job, context))
        step("cancelled in a step", lambda: _cancelled(painter, job))
        step("previews", lambda: _previews(painter, job))


def _described(painter: Painter, job: PaintJob, context: Context) -> dict:
    picture = painter.paint(job, ignore)
    picture.save(context.folder / "picture.png")
    return {**describe_picture(picture), "dtype": str(context.runtime.dtype)}


def _repeated(painter: Painter, job: PaintJob) -> dict:
    pictures = [painter.paint(job, ignore) for _ in range(2)]
    same = picture_bytes(pictures[0]) == picture_bytes(pictures[1])
    found = {"same": same, "difference": difference(*pictures)}
    return found | wrong_unless((same, "two pictures of one request differ"))


def _batch(painter: Painter, job: PaintJob) -> dict:
    jobs = [dataclasses.replace(job, seed=seed) for seed in range(1, 5)]
    batch = painter.paint_batch(jobs, ignore)
    alone = painter.paint(jobs[0], ignore)
    distinct = len({picture_bytes(picture) for picture in batch})
    apart = difference(batch[0], alone)
    return {"pictures": distinct, "difference to alone": apart} | wrong_unless(
        (distinct == len(jobs), "two seeds gave one picture"),
        (apart <= NEAR, "the picture depends on its batch"),
    )


def _previews(painter: Painter, job: PaintJob) -> dict:
    sizes = []
    previewed = painter.paint(job, lambda *_: sizes.append([p.size for p in painter.previews()]))
    plain = painter.paint(job, ignore)
    same = picture_bytes(previewed) == picture_bytes(plain)
    found = {"same": same, "sizes": str(sizes[-1])}
    return found | wrong_unless((same, "a preview changes the picture"))


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
    same = before == picture_bytes(painter.paint(job, ignore))
    return {"stopped": stopped, "same": same} | wrong_unless(
        (stopped, "the painting went on"), (same, "the next picture is another one")
    )


def _lora(painter: Painter, job: PaintJob, context: Context) -> dict:
    file = write_lora(context.folder / "lora.safetensors", painter._pipeline.unet)
    with_lora = dataclasses.replace(job, loras=(Lora("random", file, 1.0),))
    before = painter.paint(job, ignore)
    during = painter.paint(with_lora, ignore)
    file.unlink()
    after = painter.paint(job, ignore)
    same, changed = picture_bytes(before) == picture_bytes(after), difference(before, during)
    return {"same after": same, "changed by": changed} | wrong_unless(
        (same, "the LoRA stays in the model"), (changed > 0, "the LoRA changes nothing")
    )


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
    apart = difference(ours, theirs)
    found = {"difference": apart, **describe_picture(ours)}
    return found | wrong_unless((apart <= NEAR, "far from the CPU's picture"))


def _float16(context: Context) -> dict:
    half = dataclasses.replace(choose_runtime(context.runtime.device), dtype=torch.float16)
    painter = Painter.load(context.model, half)
    return describe_picture(painter.paint(context.job(steps=8), ignore))


def _tests(context: Context) -> dict:
    """Run tests/gpu where pytest is; without pytest-timeout its setting would be a warning."""
    if importlib.util.find_spec("pytest") is None:
        return {"not run": "pytest is not installed"}
    options = [
        "-q",
        "-o",
        "addopts=--import-mode=importlib",
        "-W",
        "default",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "tests/gpu"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    (context.folder / "tests.log").write_text(done.stdout + done.stderr, "utf-8")
    summary = done.stdout.strip().rpartition("\n")[2].strip("= ")
    return {"tests": summary} | wrong_unless((done.returncode == 0, "see tests.log"))
