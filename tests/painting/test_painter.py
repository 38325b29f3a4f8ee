"""Painting: the same pictures as the bare pipeline, batches, errors and previews."""

from __future__ import annotations

import dataclasses
import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from banatie.devices.runtime import Runtime
from banatie.errors import OutOfMemory, UnusablePicture
from banatie.painting.painter import Painter
from tests.support.tiny_models import make_tiny_sdxl
from tests.support.tiny_painter import (
    JOB,
    LONG,
    hooked,
    load,
    paint,
    recorder,
    use_scheduler,
)


class Stop(Exception):
    """What a caller raises to stop a painting."""


def test_the_picture_is_the_bare_pipelines(painter: Painter, original: Path) -> None:
    pipeline = load(original)._pipeline
    shape = (1, 4, JOB.height // 4, JOB.width // 4)
    for guidance, negative in ((5.0, ""), (5.0, "dark, blurry"), (1.0, "")):
        expected = pipeline(
            prompt=JOB.prompt,
            negative_prompt=negative or None,
            width=JOB.width,
            height=JOB.height,
            num_inference_steps=JOB.steps,
            guidance_scale=guidance,
            latents=torch.randn(shape, generator=torch.Generator().manual_seed(JOB.seed)),
        ).images[0]
        found = paint(painter, guidance_scale=guidance, negative_prompt=negative)
        assert found == expected.tobytes()


def test_the_picture_has_the_size_and_mode_asked_for(painter: Painter) -> None:
    image = painter.paint(JOB, lambda step, steps: None)
    assert isinstance(image, Image.Image)
    assert (image.size, image.mode) == ((48, 32), "RGB")
    assert np.asarray(image).std() > 10


@pytest.mark.parametrize(
    "scheduler",
    ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"],
)
def test_the_same_job_gives_the_same_picture_whatever_came_before(
    folder: Path, scheduler: str
) -> None:
    use_scheduler(folder, scheduler)
    painter = load(folder)
    first = paint(painter)
    assert paint(painter, seed=1) != first
    assert paint(painter, steps=7, width=64, prompt=LONG, negative_prompt="dark") != first
    torch.manual_seed(5)
    assert paint(painter) == first
    assert paint(load(folder)) == first


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "a dog"},
        {"prompt": LONG},
        {"negative_prompt": "dark"},
        {"steps": 4},
        {"guidance_scale": 7.5},
        {"seed": 0},
        {"prompt": "a dog", "guidance_scale": 1.0},
    ],
)
def test_every_parameter_counts(painter: Painter, changes: dict) -> None:
    assert paint(painter, **changes) != paint(painter)


def test_the_end_of_a_long_prompt_counts(painter: Painter) -> None:
    assert paint(painter, prompt=LONG + ", blue") != paint(painter, prompt=LONG + ", green")
    assert paint(painter, negative_prompt=LONG) != paint(painter, negative_prompt="a red cat")


@pytest.mark.parametrize(("guidance", "passes"), [(0.0, 1), (1.0, 1), (1.01, 2), (20.0, 2)])
def test_without_guidance_there_is_no_negative_pass(
    painter: Painter, guidance: float, passes: int
) -> None:
    seen = []
    with hooked(painter._pipeline.unet, lambda unet, inputs, output: seen.append(inputs[0].shape)):
        paint(painter, guidance_scale=guidance, negative_prompt="dark", prompt=LONG)
    assert [shape[0] for shape in seen] == [passes] * JOB.steps


def test_whatever_on_step_raises_stops_the_painting_there(painter: Painter) -> None:
    expected = paint(painter)

    def stop_at_two(step: int, steps: int) -> None:
        if step == 2:
            raise Stop

    asked, decoded = [], []
    with (
        hooked(painter._pipeline.unet, lambda *_: asked.append(1)),
        hooked(painter._pipeline.vae.decoder, lambda *_: decoded.append(1)),
        pytest.raises(Stop),
    ):
        painter.paint(JOB, stop_at_two)
    assert (len(asked), len(decoded)) == (2, 0)
    assert paint(painter) == expected


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("unet", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        ("vae", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        ("text_encoder_2", torch.OutOfMemoryError("CUDA out of memory.")),
        ("unet", RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")),
        ("unet", RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")),
        ("unet", RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)")),
        ("unet", RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")),
        ("unet", MemoryError()),
    ],
)
def test_out_of_memory_fails_one_job_and_frees_what_it_held(
    painter: Painter, part: str, error: Exception
) -> None:
    expected = paint(painter)
    pipeline = painter._pipeline
    painter._encoder.clear_cache()
    # The decoder is what runs: the autoencoder itself is never called as a whole.
    module = pipeline.vae.decoder if part == "vae" else getattr(pipeline, part)
    held: list[weakref.ref] = []

    def run_out(module: torch.nn.Module, inputs: tuple, output: object) -> None:
        held.append(weakref.ref(inputs[0]))
        # A fresh one, because the parameter outlives the test, and would keep its traceback.
        raise type(error)(*error.args)

    with hooked(module, run_out), pytest.raises(OutOfMemory, match="48 × 32") as caught:
        paint(painter)
    assert caught.value.__context__ is None
    assert [reference() for reference in held] == [None]
    assert paint(painter) == expected


def test_any_other_error_is_left_as_it_is(painter: Painter) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with hooked(painter._pipeline.unet, fail), pytest.raises(RuntimeError, match="mat1"):
        paint(painter)


def test_half_precision_paints_nearly_the_same_picture(painter: Painter, original: Path) -> None:
    full = np.frombuffer(paint(painter), np.uint8).astype(int)
    for dtype in (torch.float16, torch.bfloat16):
        half = np.frombuffer(paint(load(original, Runtime("cpu", dtype, dtype))), np.uint8)
        assert np.abs(half - full).mean() < 8


def test_forty_pictures_leave_nothing_behind(painter: Painter) -> None:
    def tensors() -> int:
        gc.collect()
        # By the type's identity: isinstance would wake lazy modules among everything there is.
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    # As many texts' embeddings as are kept.
    for number in range(40):
        paint(painter, steps=1, prompt=f"{number} cats")
    before = tensors()
    for seed in range(40):
        paint(painter, seed=seed, steps=1, prompt=LONG if seed % 2 else f"{seed} dogs")
    assert tensors() <= before


def test_tokens_are_counted(painter: Painter) -> None:
    assert painter.count_tokens("a red cat") == 3


def test_a_batch_gives_what_each_job_gives_alone(painter: Painter) -> None:
    jobs = [
        JOB,
        dataclasses.replace(JOB, prompt="a dog", seed=1),
        dataclasses.replace(JOB, negative_prompt="dark", seed=2),
    ]
    reported: list[tuple[int, int]] = []
    together = painter.paint_batch(jobs, recorder(reported))
    assert reported == [(1, 3), (2, 3), (3, 3)]
    for picture, job in zip(together, jobs, strict=True):
        alone = np.asarray(painter.paint(job, recorder([]))).astype(int)
        # The same sums, in another order.
        assert np.abs(np.asarray(picture) - alone).max() <= 1


def test_a_job_s_length_is_the_longer_text_s(painter: Painter) -> None:
    chunks = painter.chunks(dataclasses.replace(JOB, prompt=LONG))
    assert chunks > 1
    assert painter.chunks(JOB) == 1
    assert painter.chunks(dataclasses.replace(JOB, negative_prompt=LONG)) == chunks
    unguided = dataclasses.replace(JOB, negative_prompt=LONG, guidance_scale=1.0)
    assert painter.chunks(unguided) == 1


def test_one_unusable_picture_leaves_the_others_of_its_batch(painter: Painter) -> None:
    def spoil_the_second(unet: torch.nn.Module, inputs: tuple, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        # Rows without guidance come first, then the same with it.
        out[1::2] = float("nan")
        return out

    jobs = [JOB, dataclasses.replace(JOB, seed=1)]
    with hooked(painter._pipeline.unet.conv_out, spoil_the_second):
        first, second = painter.paint_batch(jobs, recorder([]))
    assert isinstance(first, Image.Image)
    assert isinstance(second, UnusablePicture)


def test_a_text_is_encoded_once(painter: Painter) -> None:
    painter._encoder.clear_cache()
    asked = []
    with hooked(painter._pipeline.text_encoder, lambda *_: asked.append(1)):
        first = paint(painter, negative_prompt="dark")
        assert len(asked) == 2
        assert paint(painter, negative_prompt="dark") == first
        assert len(asked) == 2
        paint(painter, prompt="a dog", negative_prompt="dark")
        assert len(asked) == 3


def test_previews_become_the_picture(painter: Painter) -> None:
    previews: list[Image.Image] = []

    def look(step: int, steps: int) -> None:
        previews.extend(painter.previews())

    picture = painter.paint(JOB, look)
    assert len(previews) == JOB.steps
    small = np.asarray(picture.resize(previews[-1].size, Image.Resampling.BOX)).astype(int)
    far, near = (np.abs(np.asarray(each) - small).mean() for each in (previews[0], previews[-1]))
    assert near < far
    assert painter.previews() == []


def test_a_compiled_unet_paints_nearly_the_same_picture(painter: Painter, original: Path) -> None:
    compiled = load(original, compiled=True)
    found = np.frombuffer(paint(compiled), np.uint8).astype(int)
    assert np.abs(found - np.frombuffer(paint(painter), np.uint8)).max() <= 1


def test_without_a_compiler_pictures_are_painted_all_the_same(
    painter: Painter, original: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/no/such/compiler",))
    torch._dynamo.reset()
    with monkeypatch.context() as context:
        context.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
        assert paint(load(original, compiled=True)) == paint(painter)
    assert "cannot be compiled and runs uncompiled" in caplog.text


def test_the_tiny_models_are_the_same_each_time(original: Path, tmp_path: Path) -> None:
    again, other = make_tiny_sdxl(tmp_path / "again"), make_tiny_sdxl(tmp_path / "other", seed=1)
    files = sorted(path.relative_to(original) for path in original.rglob("*") if path.is_file())
    assert [(again / file).read_bytes() for file in files] == [
        (original / file).read_bytes() for file in files
    ]
    weights = Path("unet", "diffusion_pytorch_model.safetensors")
    assert (other / weights).read_bytes() != (original / weights).read_bytes()
    assert json.loads((other / "unet" / "config.json").read_text())["addition_embed_type"]
