"""PNG encoding: Banatie's encoder against Pillow's default, on pictures of 1024 × 1024.

The pictures are drawn from fixed seeds, so that results are comparable. Both encoders are timed in
turn in one run, on one thread.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from banatie.imaging.png import encode_png

SPEED_GOAL = 3.0
SIZE_GOAL = 1.15


def main(argv: Sequence[str] | None = None) -> None:
    """Print the speed-up and the growth for each kind of picture, and their geometric means."""
    parser = argparse.ArgumentParser(prog="bench png", description=__doc__)
    parser.add_argument("--side", type=int, default=1024, help="pixels on each side")
    parser.add_argument("--rounds", type=int, default=9, help="of which the median counts")
    options = parser.parse_args(argv)

    print("| PNG encoding | Pillow's default | Banatie | faster | file |")
    print("|---|---|---|---|---|")
    ratios = []
    for kind, draw in KINDS.items():
        image = draw(options.side)
        theirs, ours, growth = _compare(image, options.rounds)
        ratios.append((theirs / ours, growth))
        print(
            f"| {kind} | {theirs * 1e3:.0f} ms | {ours * 1e3:.0f} ms "
            f"| {theirs / ours:.1f} × | {growth - 1:+.1%} |"
        )
    faster, growth = (statistics.geometric_mean(column) for column in zip(*ratios, strict=True))
    print(
        f"| all, geometric mean (goal: {SPEED_GOAL:.0f} ×, {SIZE_GOAL - 1:+.0%}) | | "
        f"| {faster:.1f} × | {growth - 1:+.1%} |"
    )


def _compare(image: Image.Image, rounds: int) -> tuple[float, float, float]:
    """The median seconds of Pillow and of Banatie, and our file's size over Pillow's."""
    theirs, ours = [], []
    for _ in range(rounds):
        file = io.BytesIO()
        start = time.perf_counter()
        image.save(file, "PNG")
        between = time.perf_counter()
        data = encode_png(image, {}).data
        ours.append(time.perf_counter() - between)
        theirs.append(between - start)
    return statistics.median(theirs), statistics.median(ours), len(data) / file.tell()


def _photograph(side: int) -> Image.Image:
    """Detail at every scale, as in photographs (amplitude falls with frequency), and grain."""
    generator = np.random.default_rng(1)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = 1
    bands = []
    for _ in range(4):
        phase = np.exp(2j * np.pi * generator.random(frequency.shape))
        band = np.fft.irfft2(phase / frequency**1.5, s=(side, side))
        bands.append((band - band.mean()) / band.std())
    light, *colours = bands
    levels = np.stack([128 + 50 * light + 12 * colour for colour in colours], axis=-1)
    return _image(levels + generator.normal(0, 0.8, levels.shape))


def _painting(side: int) -> Image.Image:
    """Four hundred soft strokes on a gradient, without a trace of noise."""
    generator = np.random.default_rng(2)
    corners = generator.integers(60, 220, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(corners).resize((side, side), Image.Resampling.BICUBIC)
    brush = ImageDraw.Draw(image)
    for _ in range(400):
        x, y = generator.integers(0, side, 2)
        width, height = generator.integers(side // 128, side // 7, 2)
        colour = tuple(int(level) for level in generator.integers(0, 256, 3))
        brush.ellipse((x - width, y - height, x + width, y + height), fill=colour)
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(side / 800)), dtype=float)
    return _image(soft * np.linspace(0.7, 1.1, side)[None, :, None])


def _textured_painting(side: int) -> Image.Image:
    """The same with slight noise, as an image model's decoder leaves it."""
    levels = np.asarray(_painting(side), dtype=float)
    return _image(levels + np.random.default_rng(3).normal(0, 1, levels.shape))


def _upscaled(side: int) -> Image.Image:
    """Soft blobs sixteen pixels wide, smooth everywhere and flat nowhere."""
    levels = np.random.default_rng(4).integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((side, side), Image.Resampling.LANCZOS)


def _image(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))


KINDS: dict[str, Callable[[int], Image.Image]] = {
    "photograph": _photograph,
    "painting, noise-free": _painting,
    "painting, textured": _textured_painting,
    "soft blobs": _upscaled,
}


if __name__ == "__main__":
    main()
