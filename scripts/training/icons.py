"""The openly licensed icons: downloaded once, rasterised, and recoloured.

They are from the npm package `@iconify-json/fluent-emoji-flat` (MIT, Microsoft Corporation).
Knows no scenes.
"""

from __future__ import annotations

import io
import json
import mmap
import multiprocessing
import subprocess
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy
import resvg_py
from PIL import Image
from training.things import OBJECTS

PACKAGE = "@iconify-json/fluent-emoji-flat@1.2.6"
ARCHIVE = "iconify-json-fluent-emoji-flat-1.2.6.tgz"

_PLACES = {name: place for place, name in enumerate(OBJECTS)}

# Dark, middle and light tone of each colour: an icon's luminance is laid along this ramp.
RAMPS = {
    "red": ((110, 8, 18), (226, 36, 44), (255, 150, 140)),
    "orange": ((140, 58, 0), (247, 130, 16), (255, 200, 130)),
    "yellow": ((168, 118, 0), (250, 208, 28), (255, 240, 160)),
    "green": ((8, 74, 24), (44, 160, 62), (150, 226, 150)),
    "blue": ((10, 30, 120), (38, 100, 226), (150, 200, 255)),
    "purple": ((58, 14, 104), (136, 56, 200), (208, 166, 246)),
    "pink": ((160, 26, 96), (248, 110, 176), (255, 200, 226)),
    "brown": ((62, 32, 14), (136, 82, 44), (206, 164, 122)),
    "black": ((6, 6, 8), (40, 40, 46), (120, 120, 130)),
    "white": ((150, 156, 168), (240, 242, 246), (255, 255, 255)),
}


def fetch_icons(folder: Path, archive: Path | None = None) -> Path:
    """Return the path of the icon file in `folder`, unpacking `archive` or `npm pack`ing it."""
    icons = folder / "package" / "icons.json"
    if icons.exists():
        return icons
    folder.mkdir(parents=True, exist_ok=True)
    archive = archive or folder / ARCHIVE
    if not archive.exists():
        subprocess.run(["npm", "pack", PACKAGE], cwd=folder, check=True, capture_output=True)
    with tarfile.open(archive) as files:
        # Python before 3.11.4 has no filters; only the one file is wanted.
        files.extract("package/icons.json", folder)
    return icons


class IconSet:
    """Rasterised icons by object, colour and side in pixels, as RGBA floats from 0 to 1."""

    def __init__(self, path: Path) -> None:
        self._bodies = json.loads(path.read_text())["icons"]
        self._rasters: dict[int, numpy.ndarray] = {}
        self._cached = cache(self._draw)

    def get(self, name: str, colour: str | None, side: int) -> numpy.ndarray:
        """Return the icon of an object, `side` × `side` × 4."""
        if side in self._rasters:
            raster = self._rasters[side][_PLACES[name]]
        else:
            raster = self._cached(name, side)
        pixels = raster.astype(numpy.float32) / 255
        return pixels if colour is None else recolour(pixels, colour)

    def rasterise_all(self, sides: Sequence[int], workers: int) -> None:
        """Rasterise every icon, in as many processes, into memory that forked processes share."""
        names = tuple(OBJECTS)
        for side in sides:
            shape = (len(names), side, side, 4)
            shared = mmap.mmap(-1, int(numpy.prod(shape)))
            self._rasters[side] = numpy.frombuffer(shared, numpy.uint8).reshape(shape)
        processes = []
        for first in range(workers):
            context = multiprocessing.get_context("fork")
            process = context.Process(target=self._rasterise, args=(names[first::workers],))
            process.start()
            processes.append(process)
        for process in processes:
            process.join()
            if process.exitcode:
                raise RuntimeError(f"rasterising the icons failed with code {process.exitcode}")

    def _rasterise(self, names: Sequence[str]) -> None:
        for name in names:
            whole = self._vector(name, 2 * max(self._rasters))
            for side, rasters in self._rasters.items():
                picture = whole.resize((side, side), Image.Resampling.LANCZOS)
                rasters[_PLACES[name]] = numpy.asarray(picture)

    def _vector(self, name: str, side: int) -> Image.Image:
        body = self._bodies[OBJECTS[name].icon]["body"]
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" '
            f'width="{side}" height="{side}">{body}</svg>'
        )
        picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg))))
        return picture.convert("RGBA")

    def _draw(self, name: str, side: int) -> numpy.ndarray:
        whole = self._vector(name, 2 * side)
        return numpy.asarray(whole.resize((side, side), Image.Resampling.LANCZOS))


def recolour(pixels: numpy.ndarray, colour: str) -> numpy.ndarray:
    """Return the RGBA icon with its luminance laid along the colour's ramp.

    White stays pale and black stays dark, so that eyes and windows remain recognisable.
    """
    rgb, alpha = pixels[..., :3], pixels[..., 3:]
    luminance = rgb @ numpy.array([0.3, 0.55, 0.15], numpy.float32)
    saturation = rgb.max(-1) - rgb.min(-1)
    opaque = alpha[..., 0] > 0.5
    middle = float(numpy.median(luminance[opaque])) if opaque.any() else 0.5
    place = numpy.clip(0.5 + (luminance - middle) * 0.75, 0, 1)
    ramp = numpy.array(RAMPS[colour], numpy.float32) / 255
    recoloured = numpy.stack(
        [numpy.interp(place, (0.0, 0.5, 1.0), ramp[:, channel]) for channel in range(3)], -1
    ).astype(numpy.float32)
    eyes = ((luminance > 0.93) & (saturation < 0.1) & (middle < 0.85)).astype(numpy.float32)
    ink = ((luminance < 0.2) & (middle > 0.3)).astype(numpy.float32)
    recoloured += (eyes * 0.55)[..., None] * (1 - recoloured)
    recoloured *= 1 - (ink * 0.5)[..., None]
    return numpy.concatenate([recoloured, alpha], -1)
