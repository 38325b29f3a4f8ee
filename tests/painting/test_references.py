"""Painting from pictures: references, masks, inpainting models and enlargement."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from banatie.devices.memory_plan import Plan
from banatie.painting.painter import Painter
from banatie.painting.passes import UPSCALE_DENOISE
from banatie.painting.references import Mask, extend, fit
from banatie.painting.schedulers import steps_of
from banatie.painting.tiles import tiles_of
from tests.support.pictures import difference, low_frequencies, waves
from tests.support.tiny_models import make_tiny_sdxl
from tests.support.tiny_painter import HALF, JOB, hooked, load, paint, recorder

SIZE = (JOB.width, JOB.height)


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> Painter:
    """A painter with a tiny model that is made for inpainting."""
    return load(make_tiny_sdxl(tmp_path_factory.mktemp("inpainting") / "model", in_channels=9))


def right_half(size: tuple[int, int] = SIZE) -> Image.Image:
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rectangle((size[0] // 2, 0, *size), fill=255)
    return mask


@pytest.mark.parametrize("size", [(48, 32), (96, 64), (100, 32), (20, 90), (1, 1)])
def test_a_reference_is_scaled_to_cover_the_picture_and_cut(size: tuple[int, int]) -> None:
    reference = Image.new("RGB", size, "red")
    left, right = (0, 0, size[0] // 3, size[1]), (size[0] - size[0] // 3, 0, *size)
    for side in (left, right):
        reference.paste("blue", side)
    fitted = fit(reference, SIZE)
    assert fitted.size == SIZE
    red, _, blue = fitted.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    # Of a wide one the sides are cut off, of a tall one nothing that is blue.
    assert (red > blue) is (size[0] / size[1] >= 3 or size == (1, 1) or size[0] < 3 or red > blue)


def test_what_a_canvas_has_more_repeats_the_edge() -> None:
    picture = waves((10, 7))
    wide = np.asarray(extend(picture, (13, 9)))
    assert np.array_equal(wide[:7, :10], np.asarray(picture))
    assert np.array_equal(wide[:7, 10:], np.repeat(wide[:7, 9:10], 3, 1))
    assert np.array_equal(wide[7:], np.repeat(wide[6:7], 2, 0))
    assert extend(picture, (10, 7)) is picture


@pytest.mark.parametrize("strength", [0.0, 0.4, 0.9])
def test_the_same_reference_gives_the_same_picture_in_a_batch_or_alone(
    painter: Painter, strength: float
) -> None:
    references = [waves((60, 60)), Image.new("RGB", (9, 30), "green")]
    jobs = [
        dataclasses.replace(JOB, seed=seed, reference=each, reference_strength=strength)
        for seed, each in enumerate(references)
    ]
    assert jobs[0].batch_key == jobs[1].batch_key != JOB.batch_key
    together = painter.paint_batch(jobs, recorder([]))
    for job, picture in zip(jobs, together, strict=True):
        alone = painter.paint(job, recorder([]))
        assert alone.tobytes() == painter.paint(job, recorder([])).tobytes()
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(alone)).max() <= 1


def test_a_reference_of_no_strength_changes_nothing(painter: Painter) -> None:
    assert paint(painter, reference=waves(SIZE), reference_strength=0.0) == paint(painter)
    assert paint(painter, reference=waves(SIZE), reference_strength=0.5) != paint(painter)


@pytest.mark.parametrize("model", ["painter", "inpainting"])
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_outside_the_mask_every_byte_is_the_reference_s(
    request: pytest.FixtureRequest, model: str, strength: float
) -> None:
    painter = request.getfixturevalue(model)
    reference = waves((96, 64))
    picture = painter.paint(
        dataclasses.replace(
            JOB, reference=reference, mask=right_half(), reference_strength=strength
        ),
        recorder([]),
    )
    expected, found = np.asarray(fit(reference, SIZE)), np.asarray(picture)
    assert np.array_equal(found[:, :21], expected[:, :21])
    changed = (found != expected).any((0, 2))
    # The edge is feathered over two pixels to each side, and all the rest is painted.
    assert not changed[:22].any()
    assert changed[26:].all()


def test_a_mask_s_meaning(painter: Painter) -> None:
    reference = waves(SIZE)
    for level, is_painted in ((0, False), (127, False), (128, True), (255, True)):
        mask = Image.new("L", (7, 5), level)
        found = paint(painter, reference=reference, mask=mask)
        assert (found != reference.tobytes()) is is_painted
    # In another shape than the reference, it is stretched over the whole of it.
    tall = right_half((10, 500))
    assert np.array_equal(
        np.asarray(Mask.of(tall, reference, SIZE).levels), np.asarray(right_half())
    )


def test_a_mask_is_painted_with_what_is_around_it(painter: Painter) -> None:
    # What the UNet sees outside the mask is the noised reference, at each step.
    reference, seen = waves(SIZE), []
    with hooked(painter._pipeline.unet, lambda unet, inputs, output: seen.append(inputs[0])):
        paint(painter, reference=reference, reference_strength=0.0, mask=right_half())
        masked, seen = seen, []
    with hooked(painter._pipeline.unet, lambda unet, inputs, output: seen.append(inputs[0])):
        paint(
            painter,
            reference=Image.new("RGB", SIZE),
            reference_strength=0.0,
            mask=right_half(),
        )
    width = JOB.width // 4
    assert torch.equal(masked[0], seen[0])
    for first, second in zip(masked[1:], seen[1:], strict=True):
        assert not torch.allclose(first[..., : width // 2], second[..., : width // 2])


def test_an_inpainting_model_sees_the_mask_and_what_is_kept(inpainting: Painter) -> None:
    seen: list[torch.Tensor] = []
    with hooked(inpainting._pipeline.unet, lambda unet, inputs, output: seen.append(inputs[0])):
        paint(inpainting)
        paint(inpainting, reference=waves(SIZE), mask=right_half())
    plain, masked = seen[0], seen[JOB.steps]
    assert plain.shape[1] == masked.shape[1] == 9
    half = JOB.width // 4 // 2
    assert plain[:, 4].eq(1).all()
    assert masked[:, 4, :, :half].eq(0).all()
    assert masked[:, 4, :, half:].eq(1).all()
    assert not torch.allclose(plain[:, 5:, :, :half], masked[:, 5:, :, :half])


def test_half_precision_paints_nearly_the_same_from_a_reference(
    painter: Painter, original: Path
) -> None:
    job = dataclasses.replace(JOB, reference=waves(SIZE), mask=right_half())
    full = painter.paint(job, recorder([]))
    assert difference(load(original, HALF).paint(job, recorder([])), full) < 8


@pytest.mark.parametrize(("width", "height"), [(50, 34), (46, 31), (3, 3)])
def test_any_size_can_be_painted(painter: Painter, width: int, height: int) -> None:
    # A latent stands for 4 × 4 pixels here.
    for changes in ({}, {"reference": waves((30, 30))}, {"upscale": 1.3}):
        job = dataclasses.replace(JOB, width=width, height=height, **changes)
        assert painter.paint(job, recorder([])).size == job.final_size


@pytest.mark.parametrize("upscale", [1.25, 2.0])
def test_an_enlarged_picture_is_the_small_one_with_other_details(
    painter: Painter, upscale: float
) -> None:
    job = dataclasses.replace(JOB, steps=10, guidance_scale=1.0)
    reported: list[tuple[int, int]] = []
    small = painter.paint(job, recorder([]))
    large = painter.paint(dataclasses.replace(job, upscale=upscale), recorder(reported))
    assert large.size == (round(48 * upscale), round(32 * upscale))
    # A few steps more.
    steps = 10 + steps_of(10, UPSCALE_DENOISE)
    assert reported == [(step, steps) for step in range(1, steps + 1)]
    assert large.tobytes() != small.resize(large.size, Image.Resampling.LANCZOS).tobytes()


def test_an_enlarged_picture_keeps_what_its_mask_keeps(painter: Painter) -> None:
    reference = waves((192, 128))
    job = dataclasses.replace(JOB, reference=reference, mask=right_half(), upscale=2.0)
    large = np.asarray(painter.paint(job, recorder([])))
    assert np.array_equal(large[:, :44], np.asarray(fit(reference, (96, 64)))[:, :44])


def test_enlarged_pictures_are_painted_one_by_one(painter: Painter) -> None:
    job = dataclasses.replace(JOB, upscale=2.0)
    assert job.batch_key != dataclasses.replace(JOB, upscale=2.0).batch_key
    with pytest.raises(ValueError, match="one by one"):
        painter.paint_batch([job, job], recorder([]))


def test_without_room_an_enlarged_picture_is_painted_in_tiles(original: Path) -> None:
    painter = load(original)
    job = dataclasses.replace(JOB, width=128, height=96, upscale=2.0)
    shapes: list[tuple[int, ...]] = []

    def look(unet: torch.nn.Module, inputs: tuple, output: object) -> None:
        shapes.append(tuple(inputs[0].shape[2:]))

    painter.arrange(Plan(max_pixels=256 * 192))
    with hooked(painter._pipeline.unet, look):
        whole = painter.paint(job, recorder([]))
    assert max(shapes) == (48, 64)
    shapes.clear()
    painter.arrange(Plan())
    with hooked(painter._pipeline.unet, look):
        tiled = painter.paint(job, recorder([]))
    # No part is larger than the model's largest picture, and the two are nearly the same.
    assert max(shapes) == (32, 32)
    assert not painter._pipeline.vae.use_tiling
    assert tiled.size == whole.size
    assert np.abs(low_frequencies(tiled) - low_frequencies(whole)).mean() < 8


@pytest.mark.parametrize(
    ("height", "width", "side", "count"),
    [(48, 64, None, 1), (12, 12, 12, 1), (24, 24, 12, 9), (13, 40, 12, 10), (5, 100, 1, 500)],
)
def test_tiles_cover_a_picture_and_overlap(
    height: int, width: int, side: int | None, count: int
) -> None:
    tiles = tiles_of(height, width, side)
    assert len(tiles) == count
    covered = torch.zeros(height, width)
    for tile in tiles:
        assert max(tile.height, tile.width) <= (side or width)
        weight = tile.weight()
        assert weight.min() > 0
        covered[tile.window] += weight
    assert covered.min() > 0


@pytest.mark.parametrize("sample_size", [192, 128, 100, 40])
def test_tiles_of_the_autoencoder_fit_together_whatever_its_size(
    original: Path, sample_size: int
) -> None:
    painter = load(original)
    painter._pipeline.vae.register_to_config(sample_size=sample_size)
    job = dataclasses.replace(JOB, width=200, height=152, reference=waves((200, 152)))
    whole = painter.paint(job, recorder([]))
    painter.arrange(Plan(tiled=True))
    tiled = painter.paint(job, recorder([]))
    assert tiled.size == whole.size
    assert difference(tiled, whole) < 12
