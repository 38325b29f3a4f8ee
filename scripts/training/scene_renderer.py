"""Renders a scene as pixels: a background drawn with Pillow, an icon on top, a style over both.

Knows no captions and no models. A scene always looks the same except for its background, which may
be mirrored: nothing else is varied, so that training effort goes into the objects' identity.
"""

from __future__ import annotations

import random
from functools import cache

import numpy
from PIL import Image, ImageDraw, ImageFilter
from training.icons import IconSet
from training.scene_catalog import Scene

OVERSAMPLING = 2
# The side of an object's box in pixels, by size.
SIDES = {"normal": 144, "small": 80, "large": 192}
MINIMALIST_SIDES = {"normal": 112, "small": 64, "large": 144}
# Every side that occurs: a large object is smaller in a low picture.
ALL_SIDES = (64, 80, 112, 144, 176, 192)


def _gradient(width: int, height: int, top: tuple, bottom: tuple) -> Image.Image:
    share = numpy.linspace(0, 1, height, dtype=numpy.float32)[:, None, None]
    rows = numpy.array(top) * (1 - share) + numpy.array(bottom) * share
    return Image.fromarray(numpy.broadcast_to(rows, (height, width, 3)).astype(numpy.uint8).copy())


def draw_background(setting: str | None, width: int, height: int, plain: bool) -> Image.Image:
    """Draw the background of a setting; `plain` draws only its few largest shapes."""
    scale = OVERSAMPLING
    width, height = width * scale, height * scale
    unit = (width * height) ** 0.5 / 192
    rng = random.Random(f"{setting}/{width}x{height}")
    horizon = int(height * 0.62)

    def sky(top: tuple, bottom: tuple) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        picture = _gradient(width, height, top, bottom)
        return picture, ImageDraw.Draw(picture)

    def disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: tuple) -> None:
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)

    def cloud(draw: ImageDraw.ImageDraw, x: float, y: float, fill: tuple) -> None:
        for step, radius in ((-12, 7), (0, 11), (12, 8)):
            disc(draw, x + step * unit, y, radius * unit, fill)

    if setting == "mountain":
        picture, draw = sky((112, 182, 240), (214, 234, 250))
        for x, tall, wide in ((0.2, 92, 84), (0.82, 104, 92), (0.52, 66, 80))[: 2 if plain else 3]:
            x, tall, wide = x * width, tall * unit, wide * unit
            top = horizon - tall
            draw.polygon([(x - wide, horizon), (x, top), (x + wide, horizon)], fill=(112, 122, 146))
            cap = 0.3
            draw.polygon(
                [(x - wide * cap, top + tall * cap), (x, top), (x + wide * cap, top + tall * cap)],
                fill=(246, 249, 253),
            )
        draw.rectangle([0, horizon, width, height], fill=(112, 160, 92))
        if not plain:
            draw.polygon(
                [(width * 0.44, horizon), (width * 0.56, horizon),
                 (width * 0.8, height), (width * 0.2, height)],
                fill=(150, 146, 140),
            )  # fmt: skip
    elif setting == "sea":
        picture, draw = sky((132, 200, 246), (214, 240, 252))
        draw.rectangle([0, int(height * 0.5), width, height], fill=(28, 108, 188))
        if not plain:
            cloud(draw, width * 0.2, height * 0.16, (250, 252, 255))
            for row in range(4):
                y = height * (0.58 + 0.11 * row)
                for column in range(6):
                    x = width * (column / 5 + (0.08 if row % 2 else 0))
                    draw.rectangle([x - 12 * unit, y, x + 12 * unit, y + 3 * unit], (96, 164, 224))
    elif setting == "beach":
        picture, draw = sky((112, 200, 246), (196, 234, 250))
        draw.rectangle([0, int(height * 0.44), width, horizon], fill=(36, 146, 204))
        draw.rectangle([0, horizon, width, height], fill=(242, 216, 160))
        if not plain:
            draw.rectangle([0, horizon - 4 * unit, width, horizon + 2 * unit], fill=(236, 248, 252))
            disc(draw, width * 0.84, height * 0.16, 15 * unit, (255, 226, 100))
    elif setting == "forest":
        picture, draw = sky((176, 218, 226), (206, 234, 200))
        draw.rectangle([0, horizon, width, height], fill=(72, 132, 60))
        count = 3 if plain else max(6, round(width / unit / 26))
        for place in range(count):
            x = width * (place + 0.5) / count
            tall = (96 if place % 2 else 74) * unit
            draw.polygon(
                [(x - 22 * unit, horizon + 6 * unit), (x, horizon - tall),
                 (x + 22 * unit, horizon + 6 * unit)],
                fill=(28, 100, 52) if place % 2 else (40, 122, 62),
            )  # fmt: skip
    elif setting == "city":
        picture, draw = sky((152, 192, 232), (224, 232, 242))
        x, place = 0.0, 0
        while x < width:
            wide = (40 if plain else (22, 30, 26)[place % 3]) * unit
            tall = (88, 56, 104, 70, 92)[place % 5] * unit
            tone = (104, 126, 92)[place % 3]
            draw.rectangle([x, horizon - tall, x + wide, horizon], fill=(tone, tone + 6, tone + 22))
            if not plain:
                for row in range(int(tall / unit / 16)):
                    for column in range(2):
                        left = x + wide * (0.2 + 0.4 * column)
                        top = horizon - tall + (6 + row * 16) * unit
                        draw.rectangle(
                            [left, top, left + wide * 0.2, top + 7 * unit], fill=(246, 226, 140)
                        )
            x += wide + (6 if plain else 3) * unit
            place += 1
        draw.rectangle([0, horizon, width, height], fill=(92, 92, 100))
        if not plain:
            y = height * 0.86
            for column in range(7):
                x = width * column / 6
                draw.rectangle([x - 10 * unit, y, x + 10 * unit, y + 4 * unit], (230, 226, 200))
    elif setting == "desert":
        picture, draw = sky((250, 206, 130), (253, 236, 190))
        draw.ellipse(
            [-width * 0.4, horizon - 22 * unit, width * 0.7, height * 1.7], (232, 182, 102)
        )
        draw.ellipse([width * 0.3, horizon, width * 1.5, height * 1.9], fill=(216, 160, 84))
        if not plain:
            disc(draw, width * 0.82, height * 0.17, 14 * unit, (255, 246, 214))
    elif setting == "night":
        picture, draw = sky((12, 16, 60), (48, 54, 120))
        disc(draw, width * 0.83, height * 0.17, 16 * unit, (250, 244, 204))
        disc(draw, width * 0.83 - 7 * unit, height * 0.17 - 4 * unit, 13 * unit, (18, 22, 70))
        for _ in range(6 if plain else 26):
            x, y = rng.uniform(0, width * 0.74), rng.uniform(0, horizon)
            disc(draw, x, y, rng.choice((1.4, 2.2)) * unit, (255, 252, 224))
        draw.rectangle([0, int(height * 0.8), width, height], fill=(22, 28, 56))
    elif setting == "sunset":
        picture, draw = sky((108, 52, 128), (255, 148, 72))
        disc(draw, width * 0.3, horizon - 6 * unit, 30 * unit, (255, 224, 120))
        draw.rectangle([0, horizon + 6 * unit, width, height], fill=(84, 44, 76))
    elif setting == "snow":
        picture, draw = sky((176, 198, 220), (222, 232, 242))
        if not plain:
            for x in (0.1, 0.9):
                x *= width
                for level in range(3):
                    wide, top = (16 + 7 * level) * unit, horizon - (64 - 20 * level) * unit
                    draw.polygon(
                        [(x - wide, top + 26 * unit), (x, top), (x + wide, top + 26 * unit)],
                        fill=(84, 130, 120),
                    )
        draw.ellipse([-width * 0.3, horizon - 8 * unit, width * 1.3, height * 1.8], (246, 250, 254))
        for _ in range(8 if plain else 26):
            x, y = rng.uniform(0, width), rng.uniform(0, height * 0.66)
            disc(draw, x, y, 2.6 * unit, (255, 255, 255))
    elif setting == "room":
        picture, draw = sky((232, 206, 178), (240, 220, 196))
        floor = int(height * 0.72)
        draw.rectangle([0, floor, width, height], fill=(160, 106, 66))
        left, top = width * 0.68, height * 0.1
        wide, tall = 46 * unit, 50 * unit
        draw.rectangle([left, top, left + wide, top + tall], fill=(255, 250, 240))
        edge = 4 * unit
        draw.rectangle(
            [left + edge, top + edge, left + wide - edge, top + tall - edge], fill=(150, 206, 240)
        )
        if not plain:
            middle = left + wide / 2
            draw.rectangle([middle - 2 * unit, top, middle + 2 * unit, top + tall], (255, 250, 240))
            draw.rectangle([0, floor - 5 * unit, width, floor], fill=(250, 240, 226))
            draw.rectangle(
                [width * 0.1, top, width * 0.1 + 30 * unit, top + 36 * unit], fill=(196, 90, 76)
            )
    elif setting == "studio":
        picture, draw = sky((96, 104, 116), (150, 158, 170))
        draw.rectangle([0, int(height * 0.74), width, height], fill=(190, 196, 204))
    elif setting == "space":
        picture, draw = sky((10, 4, 26), (40, 12, 62))
        for _ in range(8 if plain else 34):
            x, y = rng.uniform(0, width), rng.uniform(0, height)
            disc(draw, x, y, rng.choice((1.3, 2.0)) * unit, (236, 236, 255))
        disc(draw, width * 0.16, height * 0.2, 22 * unit, (226, 130, 84))
        disc(draw, width * 0.16 - 5 * unit, height * 0.2 - 4 * unit, 15 * unit, (238, 156, 106))
        disc(draw, width * 0.88, height * 0.86, 12 * unit, (110, 190, 220))
    elif setting == "meadow":
        picture, draw = sky((136, 206, 250), (222, 242, 252))
        draw.ellipse([-width * 0.5, horizon - 20 * unit, width * 0.8, height * 1.8], (128, 200, 84))
        draw.ellipse([width * 0.1, horizon, width * 1.5, height * 1.9], fill=(104, 182, 70))
        if not plain:
            cloud(draw, width * 0.78, height * 0.17, (252, 254, 255))
            for place in range(12):
                x = width * (place + 0.5) / 12
                y = height * (0.8 if place % 2 else 0.93)
                disc(draw, x, y, 3.4 * unit, ((250, 226, 90), (250, 150, 190))[place // 2 % 2])
    elif setting == "white":
        picture, draw = sky((253, 253, 253), (253, 253, 253))
    else:
        picture, draw = sky((226, 234, 236), (244, 238, 226))
    return picture.resize((width // scale, height // scale), Image.Resampling.BOX)


def _pixels(picture: Image.Image) -> numpy.ndarray:
    return numpy.asarray(picture).astype(numpy.float32) / 255


def _blur(mask: numpy.ndarray, radius: float) -> numpy.ndarray:
    picture = Image.fromarray((mask * 255).astype(numpy.uint8))
    return numpy.asarray(picture.filter(ImageFilter.GaussianBlur(radius))).astype("f4") / 255


def _dilate(mask: numpy.ndarray, radius: int) -> numpy.ndarray:
    """Return the mask widened by `radius` pixels, with a soft edge."""
    return numpy.clip(_blur(mask, radius / 1.6) * 9 - 0.6, 0, 1)


def _over(ground: numpy.ndarray, colour: tuple, mask: numpy.ndarray) -> numpy.ndarray:
    mask = mask[..., None]
    return ground * (1 - mask) + numpy.array(colour, numpy.float32) / 255 * mask


def _saturate(rgb: numpy.ndarray, strength: float) -> numpy.ndarray:
    grey = rgb.mean(-1, keepdims=True)
    return numpy.clip(grey + (rgb - grey) * strength, 0, 1)


def place_object(scene: Scene, width: int, height: int) -> tuple[int, int, int]:
    """Return left, top and side of the object's box in pixels.

    All are multiples of 8, and of 16 where possible, so that an icon is aligned to the latent grid
    in the same way in every picture.
    """
    sides = MINIMALIST_SIDES if scene.style == "minimalist" else SIDES
    # Whole latent patches, with a margin of half a patch at least.
    side = min(sides[scene.size], (min(width, height) - 16) // 16 * 16)
    room_across, room_down = width - side, height - side
    left = room_across // 2 // 16 * 16
    if scene.position == "left":
        left = max(8, room_across // 8 // 16 * 16)
    elif scene.position == "right":
        left = min(room_across - 8, -(-room_across * 7 // 8 // 16) * 16)
    top = (room_down * 5 // 8) // 16 * 16
    if top + side > height - 8:
        top = (height - 8 - side) // 8 * 8
    return left, max(0, top), side


class SceneRenderer:
    """Renders scenes, with a cache of backgrounds and icons."""

    def __init__(self, icons: IconSet) -> None:
        self._icons = icons
        self._background = cache(self._draw_background)

    def _draw_background(
        self, setting: str | None, style: str, width: int, height: int, mirrored: bool
    ) -> numpy.ndarray:
        picture = draw_background(setting, width, height, plain=style in ("minimalist", "sticker"))
        if mirrored:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if style == "photorealistic":
            picture = picture.filter(ImageFilter.GaussianBlur(3.5))
        elif style == "product":
            picture = picture.filter(ImageFilter.GaussianBlur(2))
        pixels = _pixels(picture)
        down, across = numpy.mgrid[0:height, 0:width].astype(numpy.float32)
        if style == "photorealistic":
            distance = ((across / width - 0.5) ** 2 + (down / height - 0.5) ** 2) * 2
            pixels = pixels**1.15 * (1 - 0.55 * distance)[..., None]
        elif style == "minimalist":
            pixels = 0.45 + 0.55 * pixels
        elif style == "sticker" and setting is None:
            pixels = numpy.ones_like(pixels) * numpy.array([0.70, 0.86, 0.82], numpy.float32)
        elif style == "product" and setting is None:
            pixels = pixels * 0.96 * (1 - 0.12 * (down / height)[..., None])
        elif style == "illustration":
            pixels = _saturate(pixels, 1.35)
        elif style == "comic":
            pixels = numpy.round(_saturate(pixels, 1.2) * 6) / 6
            dots = ((across % 8 - 3.5) ** 2 + (down % 8 - 3.5) ** 2) < 4.2
            shade = numpy.clip((down / height - 0.1), 0, 1) * 0.5
            pixels = pixels * (1 - (dots * shade)[..., None])
        return pixels

    def render(
        self, scene: Scene, width: int, height: int, mirrored: bool = False
    ) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Return the picture, height × width × 3 from 0 to 1, and the object's mask."""
        style = scene.style
        pixels = self._background(scene.setting, style, width, height, mirrored).copy()
        mask = numpy.zeros((height, width), numpy.float32)
        left, top, side = place_object(scene, width, height)
        middle, bottom = left + side / 2, top + side
        down, across = numpy.mgrid[0:height, 0:width].astype(numpy.float32)

        def oval(x: float, y: float, wide: float, tall: float, soft: float) -> numpy.ndarray:
            distance = numpy.sqrt(((across - x) / wide) ** 2 + ((down - y) / tall) ** 2)
            return numpy.clip((1 - distance) / soft, 0, 1)

        if style == "illustration":
            rays = oval(middle, top + side / 2, side * 0.62, side * 0.62, 0.02)
            pixels = _over(pixels, (255, 214, 96), rays * 0.85)
            pixels = _over(
                pixels, (255, 240, 190),
                oval(middle, top + side / 2, side * 0.5, side * 0.5, 0.02) * 0.8,
            )  # fmt: skip
        if style == "product":
            edge = bottom - side * 0.06
            body = (numpy.abs(across - middle) < side * 0.6) & (down > edge)
            pixels = _over(pixels, (206, 204, 208), body.astype(numpy.float32))
            pixels = _over(
                pixels, (246, 245, 248), oval(middle, edge, side * 0.6, side * 0.12, 0.03)
            )
        if scene.object is not None:
            icon = self._icons.get(scene.object, scene.colour, side)
            rgb, alpha = icon[..., :3], icon[..., 3]
            mask[top : top + side, left : left + side] = alpha
            if style == "photorealistic":
                light = numpy.linspace(1.12, 0.66, side, dtype=numpy.float32)[:, None, None]
                light = light + numpy.linspace(0.1, -0.1, side, dtype=numpy.float32)[None, :, None]
                rgb = numpy.clip(rgb * light, 0, 1)
            elif style == "illustration":
                rgb = _saturate(rgb, 1.2)
            if style == "sticker":
                edge = _dilate(mask, 7)
                pixels = _over(pixels, (60, 64, 72), numpy.roll(_blur(edge, 2), 2, 0) * 0.35)
                pixels = _over(pixels, (255, 255, 255), edge)
            elif style == "comic":
                pixels = _over(pixels, (10, 10, 12), _dilate(mask, 3))
            elif style != "minimalist":
                soft = 0.9 if style in ("photorealistic", "product") else 0.25
                dark = 0.45 if soft > 0.5 else 0.22
                shadow = oval(middle, bottom - side * 0.05, side * 0.46, side * 0.08, soft)
                pixels = _over(pixels, (20, 24, 34), shadow * dark)
            canvas = numpy.zeros((height, width, 3), numpy.float32)
            canvas[top : top + side, left : left + side] = rgb
            pixels = pixels * (1 - mask[..., None]) + canvas * mask[..., None]
        if style == "comic":
            near = numpy.minimum(
                numpy.minimum(across, width - 1 - across), numpy.minimum(down, height - 1 - down)
            )
            pixels = _over(pixels, (10, 10, 12), (near < 8).astype(numpy.float32))
            pixels = _over(pixels, (255, 255, 255), (near < 5).astype(numpy.float32))
        return numpy.clip(pixels, 0, 1), mask
