"""Held-out combinations stay out of training, and scenes are rendered as described."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch
from training.icons import IconSet
from training.latents import find_basis, to_tensor
from training.scene_catalog import (
    CANVASES,
    COLOURS,
    POSITIONS,
    SETTINGS,
    SIZES,
    STYLES,
    Scene,
    held_out,
)
from training.scene_renderer import SceneRenderer, place_object
from training.supply import random_training_scene
from training.things import OBJECTS
from training.unet import build_scheduler


def test_at_least_fifteen_percent_of_the_combinations_are_held_out() -> None:
    scenes = [Scene(*names) for names in itertools.product(OBJECTS, COLOURS, SETTINGS)]
    share = sum(held_out(scene) for scene in scenes) / len(scenes)
    assert 0.15 < share < 0.25
    assert len(OBJECTS) >= 900
    assert (len(COLOURS), len(SETTINGS), len(STYLES)) == (10, 14, 7)


def test_training_never_sees_a_held_out_combination() -> None:
    rng = random.Random(5)
    scenes = [random_training_scene(rng, name, easy) for name in OBJECTS for easy in (True, False)]
    assert not any(held_out(scene) for scene in scenes)
    assert all(scene.colour is None for scene in scenes if not OBJECTS[scene.object].dye)


@pytest.mark.parametrize("aspect", CANVASES)
def test_an_object_is_whole_in_every_picture(aspect: str) -> None:
    width, height = CANVASES[aspect]
    assert 55_000 <= width * height <= 66_000
    assert width % 16 == height % 16 == 0
    for style, size, position in itertools.product(STYLES, SIZES, POSITIONS):
        left, top, side = place_object(
            Scene("cat", None, None, style, size, position), width, height
        )
        assert 0 <= left <= width - side
        assert 0 <= top <= height - side


def test_styles_and_colours_change_the_picture(icons: Path) -> None:
    renderer = SceneRenderer(IconSet(icons))
    scenes = [Scene("cat", "red", "sea", style) for style in STYLES]
    scenes += [Scene("cat", colour, "sea") for colour in COLOURS[1:]]
    pictures = [renderer.render(scene, 144, 144)[0] for scene in scenes]
    for one, other in itertools.combinations(pictures, 2):
        assert abs(one - other).mean() > 0.002


def test_latents_reconstruct_the_pixels(icons: Path) -> None:
    renderer = SceneRenderer(IconSet(icons))
    basis = find_basis(renderer, pictures=40)
    pixels = to_tensor(renderer.render(Scene("car", "blue", "meadow"), 192, 192)[0])
    latents = basis.encode(pixels)
    assert latents.shape == (1, 64, 12, 12)
    assert (basis.decode(latents) - pixels).abs().mean() < 0.06


def test_sampling_starts_from_pure_noise() -> None:
    scheduler = build_scheduler()
    scheduler.set_timesteps(8)
    assert int(scheduler.timesteps[0]) == 999
    assert scheduler.alphas_cumprod[-1] == torch.tensor(0.0)
