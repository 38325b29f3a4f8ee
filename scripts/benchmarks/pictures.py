"""Painting from pictures: a sheet of references and results, to be looked at.

Three rows: a reference and what another prompt makes of it, the stronger the further right; a
reference with its mask and what is painted there; a picture, enlarged without and with painting.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from banatie.devices.runtime import choose_runtime
from banatie.models.catalog import Catalog
from banatie.painting.job import PaintJob
from banatie.painting.painter import Painter

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9)
CELL = 224
GAP = 6
MASK_COLOUR = (255, 0, 255)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(prog="bench pictures", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="banatie-small", help="catalog name or folder")
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/from-pictures.jpg"))
    options = parser.parse_args(argv)

    model = Catalog(options.models_dir).painting_model(options.model)
    painter = Painter.load(model, choose_runtime(options.device, options.threads))
    width, height = model.sizes["1:1"]
    plain = PaintJob("", "", width, height, model.steps, model.guidance_scale, options.seed)
    rows = [_guided(painter, plain), _masked(painter, plain), _enlarged(painter, plain)]
    _sheet(rows).save(options.out, quality=88)
    print(f"wrote {options.out}")


def _paint(painter: Painter, job: PaintJob, prompt: str, **changes: object) -> Image.Image:
    job = dataclasses.replace(job, prompt=prompt, **changes)
    return painter.paint(job, lambda step, steps: None)


def _guided(painter: Painter, plain: PaintJob) -> list[Image.Image]:
    reference = _paint(painter, plain, "a yellow house in the snow")
    guided = [
        _paint(
            painter, plain, "a red tractor in a field", reference=reference, reference_strength=each
        )
        for each in STRENGTHS
    ]
    return [reference, *guided]


def _masked(painter: Painter, plain: PaintJob) -> list[Image.Image]:
    reference = _paint(painter, plain, "a blue car at the beach")
    width, height = reference.size
    mask = Image.new("L", reference.size, 0)
    ImageDraw.Draw(mask).ellipse((width * 0.15, height * 0.2, width * 0.85, height * 0.9), fill=255)
    shown = reference.copy()
    shown.paste(MASK_COLOUR, mask=mask.point(lambda level: level // 2))
    prompts = ("a red fox", "a green tree", "a yellow house", "a pink pig")
    edited = [
        _paint(
            painter,
            plain,
            f"{prompt} at the beach",
            reference=reference,
            reference_strength=0.0,
            mask=mask,
        )
        for prompt in prompts
    ]
    return [reference, shown, *edited]


def _enlarged(painter: Painter, plain: PaintJob) -> list[Image.Image]:
    prompt = "a red fox in the forest"
    small = _paint(painter, plain, prompt)
    size = (small.width * 2, small.height * 2)
    stretched = small.resize(size, Image.Resampling.LANCZOS)
    painter.max_pixels = size[0] * size[1]
    enlarged = _paint(painter, plain, prompt, upscale=2.0)
    middle = (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4)
    return [small, stretched, enlarged, stretched.crop(middle), enlarged.crop(middle)]


def _sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    step = CELL + GAP
    size = (max(map(len, rows)) * step - GAP, len(rows) * step - GAP)
    sheet = Image.new("RGB", size, "white")
    for top, row in enumerate(rows):
        for left, picture in enumerate(row):
            cell = picture.resize((CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(cell, (left * step, top * step))
    return sheet
