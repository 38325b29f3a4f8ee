"""The bundled model paints from pictures so that one sees it: references, masks, enlargement."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageDraw

from banatie.devices.memory_plan import Plan
from banatie.models.catalog import Catalog
from banatie.painting.job import PaintJob
from banatie.painting.painter import Painter
from tests.support.pictures import (
    difference,
    hash_distance,
    histogram_distance,
    low_frequencies,
)
from tests.support.tiny_painter import FULL


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Painter, PaintJob]:
    """A painter with the bundled model, and a job in its own settings."""
    model = Catalog(tmp_path_factory.mktemp("none")).painting_model("banatie-small")
    width, height = model.sizes["1:1"]
    job = PaintJob(
        "a red tractor in a field", "", width, height, model.steps, model.guidance_scale, 3
    )
    return Painter.load(model, FULL), job


def paint(painter: Painter, job: PaintJob, **changes: object) -> Image.Image:
    return painter.paint(dataclasses.replace(job, **changes), lambda step, steps: None)


@pytest.fixture(scope="module")
def reference(bundled: tuple[Painter, PaintJob]) -> Image.Image:
    return paint(*bundled, prompt="a yellow house in the snow")


def test_a_picture_comes_nearer_to_its_reference_as_the_strength_grows(
    bundled: tuple[Painter, PaintJob], reference: Image.Image
) -> None:
    # In four steps it paints what the prompt says at lower strengths, and mixes about 0.7.
    guided = [
        paint(*bundled, reference=reference, reference_strength=strength)
        for strength in (0.0, 0.8, 0.9)
    ]
    for distance in (histogram_distance, hash_distance, difference):
        distances = [distance(picture, reference) for picture in guided]
        assert distances == sorted(distances, reverse=True), distance.__name__
        assert distances[-1] < 0.75 * distances[0], distance.__name__


def test_what_is_painted_into_a_mask_fits_what_is_around_it(
    bundled: tuple[Painter, PaintJob], reference: Image.Image
) -> None:
    width, height = reference.size
    mask = Image.new("L", reference.size, 0)
    box = (width // 4, height // 4, width * 3 // 4, height * 3 // 4)
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    picture = paint(
        *bundled,
        prompt="a red fox in the snow",
        reference=reference,
        reference_strength=0.0,
        mask=mask,
    )
    edge = width // 64 + 2
    outside = np.ones((height, width), bool)
    outside[box[1] - edge : box[3] + edge, box[0] - edge : box[2] + edge] = False
    assert np.array_equal(np.asarray(picture)[outside], np.asarray(reference)[outside])
    inside = (box[0] + edge, box[1] + edge, box[2] - edge, box[3] - edge)
    # A red fox where the yellow house was.
    before, after = (
        np.asarray(each.crop(inside)).reshape(-1, 3).mean(0) for each in (reference, picture)
    )
    assert before[1] - after[1] > 20
    # Across the mask's edge the picture changes no more than the reference does, give or take.
    rows = slice(box[1] + edge, box[3] - edge)
    steps = [
        np.abs(np.diff(np.asarray(each).astype(int)[rows], axis=1))[
            :, box[0] - edge : box[0] + edge
        ]
        for each in (picture, reference)
    ]
    assert steps[0].mean() < 4 * steps[1].mean() + 6


@pytest.mark.parametrize("upscale", [1.5, 2.0])
def test_an_enlarged_picture_is_the_same_at_low_frequencies(
    bundled: tuple[Painter, PaintJob], upscale: float
) -> None:
    painter, job = bundled
    small = paint(painter, job)
    stretched = low_frequencies(small)
    painter.arrange(Plan(max_pixels=10**9))
    whole = paint(painter, job, upscale=upscale)
    painter.arrange(Plan())
    tiled = paint(painter, job, upscale=upscale)
    other = low_frequencies(paint(painter, job, prompt="a yellow house in the snow"))
    for large in (whole, tiled):
        assert large.size == (round(job.width * upscale), round(job.height * upscale))
        error = np.abs(low_frequencies(large) - stretched).mean()
        assert error < 12
        assert error < np.abs(other - stretched).mean() / 3


def test_tiles_leave_no_seams(bundled: tuple[Painter, PaintJob]) -> None:
    painter, job = bundled
    factor = painter._pipeline.vae_scale_factor
    painter.arrange(Plan())
    picture = np.asarray(paint(painter, job, upscale=2.0)).astype(int)
    painter.arrange(Plan(max_pixels=10**9))
    whole = np.asarray(paint(painter, job, upscale=2.0)).astype(int)
    for axis in (0, 1):
        # How much neighbouring lines differ, by where a tile begins or ends, or none does.
        seams, others = [], []
        lines = np.abs(np.diff(picture - whole, axis=axis)).mean((1 - axis, 2))
        side = job.width // factor
        starts = {round(n * side / 2) for n in range(3)}
        borders = {(start + offset) * factor - 1 for start in starts for offset in (0, side)}
        for place, change in enumerate(lines):
            if place % factor == factor - 1:
                (seams if place in borders else others).append(change)
        assert seams
        assert max(seams) < 2 * np.percentile(others, 90)
