"""How fast? Whole pictures as they come, the parts apart, then each switch alone."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from banatie.imaging.png import encode_png
from banatie.painting.painter import Painter, PaintJob
from banatie.painting.vae import decode, decode_finite, to_image
from scripts.gpu_check.context import Context, ignore

UNET_FLOP = 6.76e12
"""Of a UNet forward for one picture of 1024×1024."""
DECODE_FLOP = 10.5e12
"""Of decoding one picture of 1024×1024."""


def run(context: Context) -> None:
    """Pictures and parts without compiling."""
    step = context.recorder.step
    painter = step("load", context.load, needs=20)
    if painter is None:
        return
    step("warm-up", lambda: _pictures(context, painter, context.job(2), 1, 1), needs=5)
    _whole(context, painter, ((30, 5.0), (4, 1.0), (20, 5.0)))
    parts = Parts(context, painter)
    for name in ("unet x2", "unet x1", "vae", "text", "image", "png"):
        step(f"part: {name}", lambda name=name: parts.measure(name))
    for batch in context.batches:
        step(f"batch of {batch}", lambda batch=batch: _batch(context, painter, batch), needs=12)
    _whole(context, painter, ((8, 1.0), (8, 5.0), (4, 5.0)))
    step("vae, one call for 4", lambda: parts.decode_batch(4))
    step("30 steps guided, without graphs", lambda: _without_graphs(context, painter), needs=8)
    _switches(context, painter, parts)


def _without_graphs(context: Context, painter: Painter) -> dict:
    uses, painter.uses_graphs = painter.uses_graphs, False
    try:
        return _pictures(context, painter, context.job(4 if context.tiny else 30), 2)
    finally:
        painter.uses_graphs = uses


def _whole(context: Context, painter: Painter, jobs: Sequence[tuple[int, float]]) -> None:
    for steps, guidance in jobs:
        if context.tiny:
            steps = min(steps, 4)
        guided = "guided" if guidance > 1 else "unguided"
        job = context.job(steps, guidance)
        # The pictures before have warmed everything up; long ones repeat well.
        rounds = 2 if steps > 8 else 3
        context.recorder.step(
            f"{steps} steps {guided}",
            lambda job=job, rounds=rounds: _pictures(context, painter, job, rounds),
            needs=8,
        )


def run_compiled(context: Context) -> None:
    """What compiling brings and costs."""
    step = context.recorder.step
    painter = step("load", lambda: context.load(compiled=True), needs=20)
    if painter is None:
        return
    parts = Parts(context, painter)
    step(
        "compile_repeated_blocks: first picture",
        lambda: _pictures(context, painter, context.job(4), 1),
        needs=20,
    )
    step("compile_repeated_blocks: unet x2", lambda: parts.measure("unet x2"))
    for steps, guidance in ((30, 5.0), (4, 1.0)):
        job = context.job(4 if context.tiny else steps, guidance)
        name = f"compile_repeated_blocks: {steps} steps"
        step(name, lambda job=job: _pictures(context, painter, job, 2, 1), needs=20)
    vae = painter._pipeline.vae
    vae.decoder.compile()
    step("vae compiled: first", lambda: parts.measure("vae", rounds=1, warm=0), needs=20)
    step("vae compiled", lambda: parts.measure("vae"))
    step(
        "both compiled: 4 steps unguided",
        lambda: _pictures(context, painter, context.job(4, 1.0), 3, 1),
    )
    if context.tiny:
        return
    for mode in ("default", "reduce-overhead"):
        painter = None
        painter = step(f"load for {mode}", context.load, needs=30)
        if painter is None:
            return
        painter.uses_graphs = False
        parts = Parts(context, painter)
        painter._pipeline.unet.compile(mode=None if mode == "default" else mode)
        step(
            f"whole unet, {mode}: first",
            lambda parts=parts: parts.measure("unet x2", rounds=1, warm=0),
            needs=40,
        )
        step(f"whole unet, {mode}: unet x2", lambda parts=parts: parts.measure("unet x2"))
        step(
            f"whole unet, {mode}: 30 steps",
            lambda painter=painter: _pictures(context, painter, context.job(30), 2, 1),
        )


class Parts:
    """The parts of a painting, each alone on inputs of a picture's size."""

    def __init__(self, context: Context, painter: Painter) -> None:
        self._context, self._painter = context, painter
        self._pipeline = painter._pipeline
        width, height = context.model.sizes["1:1"]
        factor = self._pipeline.vae_scale_factor
        self._side = (height // factor, width // factor)

    def measure(self, name: str, rounds: int = 5, warm: int = 2) -> dict:
        """The seconds of one part, and its share of the card's peak where that is known."""
        flop = 0.0
        if name.startswith("unet"):
            pictures = int(name[-1])
            work, flop = self._unet(pictures), UNET_FLOP * pictures
        elif name == "vae":
            work, flop = self._vae(), DECODE_FLOP
        elif name == "text":
            work = self._text()
        else:
            work = self._image(png=name == "png")
        with torch.inference_mode():
            seconds = self._context.seconds(work, rounds, warm)
        found: dict[str, Any] = {"seconds": round(seconds, 5)}
        if flop and self._context.is_cuda and not self._context.tiny:
            found["TFLOP/s"] = round(flop / seconds / 1e12)
        return found

    def decode_batch(self, count: int) -> dict:
        """The seconds of decoding `count` pictures in one call, and one after the other."""
        latents = self._latents(count)
        vae = self._pipeline.vae
        with torch.inference_mode():
            together = self._context.seconds(lambda: decode(vae, latents))
            apart = self._context.seconds(lambda: [decode(vae, each[None]) for each in latents])
        return {"together": round(together, 4), "apart": round(apart, 4)}

    def _latents(self, count: int) -> torch.Tensor:
        unet = self._pipeline.unet
        shape = (count, unet.config.in_channels, *self._side)
        return torch.randn(shape).to(unet.device, unet.dtype)

    def _unet(self, count: int) -> Callable[[], object]:
        unet = self._pipeline.unet
        latents = self._latents(count)
        sequence = torch.randn(count, 77, unet.config.cross_attention_dim).to(latents)
        time_dim = unet.config.addition_time_embed_dim
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * time_dim
        added = {
            "text_embeds": torch.randn(count, pooled).to(latents),
            "time_ids": torch.full((count, 6), 1024.0).to(latents),
        }
        timestep = torch.tensor(500, device=latents.device)
        return lambda: unet(latents, timestep, sequence, added_cond_kwargs=added)

    def _vae(self) -> Callable[[], object]:
        latents = self._latents(1)[0]
        return lambda: decode_finite(self._pipeline.vae, latents)

    def _text(self) -> Callable[[], object]:
        encoder, numbers = self._painter._encoder, iter(range(1_000_000))
        return lambda: encoder.encode_batch([f"a red car, number {next(numbers)}"], [""])

    def _image(self, png: bool) -> Callable[[], object]:
        width, height = self._context.model.sizes["1:1"]
        pixels = torch.rand(3, height, width).mul(2).sub(1).to(self._context.runtime.device)
        if not png:
            return lambda: to_image(pixels)
        image = to_image(pixels)
        return lambda: encode_png(image, {})


def _switches(context: Context, painter: Painter, parts: Parts) -> None:
    step, pipeline = context.recorder.step, painter._pipeline
    for name in ("unet", "vae"):
        module = getattr(pipeline, name)
        module.to(memory_format=torch.channels_last)
        part = "unet x2" if name == "unet" else "vae"
        step(f"{name} channels-last", lambda part=part: parts.measure(part))
        module.to(memory_format=torch.contiguous_format)
    if not context.is_cuda:
        return
    step("cudnn.benchmark", lambda: _with_benchmark(parts), needs=10)
    pipeline.unet.fuse_qkv_projections()
    step("unet with fused QKV", lambda: parts.measure("unet x2"))
    pipeline.unet.unfuse_qkv_projections()
    pipeline.vae.to(torch.float16)
    step("vae in float16", lambda: parts.measure("vae"))
    pipeline.vae.to(torch.float32)
    step("vae in float32", lambda: parts.measure("vae"))
    pipeline.vae.to(context.runtime.dtype)
    pipeline.unet.to(torch.float16)
    step("unet in float16", lambda: parts.measure("unet x2"))


def _with_benchmark(parts: Parts) -> dict:
    with _cudnn_benchmark():
        return {"unet x2": parts.measure("unet x2"), "vae": parts.measure("vae")}


@contextlib.contextmanager
def _cudnn_benchmark():
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


def _pictures(
    context: Context, painter: Painter, job: PaintJob, rounds: int = 3, warm: int = 0
) -> dict:
    marks: list[float] = []

    def paint() -> None:
        marks.clear()
        marks.append(time.perf_counter())
        painter.paint(job, lambda *_: marks.append(time.perf_counter()))
        marks.append(time.perf_counter())

    peak = context.peak(lambda: None)
    seconds = context.seconds(paint, rounds, warm)
    if context.is_cuda:
        peak = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return {
        "seconds": round(seconds, 4),
        "to the first step": round(marks[1] - marks[0], 4),
        "after the last": round(marks[-1] - marks[-2], 4),
        "peak GB": peak,
    }


def _batch(context: Context, painter: Painter, count: int) -> dict:
    """The seconds of 20 guided steps for each picture of a batch, warmed up by two steps."""

    def paint(steps: int) -> None:
        job = context.job(steps)
        painter.paint_batch([dataclasses.replace(job, seed=n) for n in range(count)], ignore)

    steps = 4 if context.tiny else 20
    peak = context.peak(lambda: paint(2))
    seconds = context.seconds(lambda: paint(steps), 1, 0)
    return {"seconds a picture": round(seconds / count, 4), "peak GB": peak}
