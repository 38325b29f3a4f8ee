"""Statistics how well generated pictures follow prompts that training never held.

It paints with a pipeline, asks the judge, and sums up; it trains nothing.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image, ImageDraw
from training.captions import say
from training.judging import ATTRIBUTES, Judge, Verdict, judge_pictures
from training.latents import to_tensor
from training.painting import GUIDANCE, STEPS
from training.world import CANVASES, COLOURS, OBJECTS, SETTINGS, STYLES, Scene, held_out

BATCH = 8


@dataclass(frozen=True)
class Wish:
    """A prompt with what it asks for and the picture's aspect ratio."""

    prompt: str
    scene: Scene
    aspect: str


@dataclass(frozen=True)
class Answer:
    """A wish with the picture made for it and what the judge saw there."""

    wish: Wish
    pixels: torch.Tensor
    verdict: Verdict

    def right(self, attribute: str) -> bool:
        """Tell whether the judge saw what was asked for."""
        return getattr(self.verdict, attribute) == getattr(self.wish.scene, attribute)


def held_out_wishes(number: int, seed: int = 400, aspect: str = "1:1") -> list[Wish]:
    """Return prompts whose object, colour and setting never occurred together in training.

    Objects and styles come round equally often.
    """
    chance = random.Random(seed)
    things = list(OBJECTS)
    chance.shuffle(things)
    wishes = []
    for place in range(number):
        thing = things[place % len(things)]
        while True:
            scene = Scene(
                thing, chance.choice(COLOURS), chance.choice(SETTINGS), STYLES[place % len(STYLES)]
            )
            if held_out(scene):
                break
        wishes.append(Wish(say(scene, chance), scene, aspect))
    return wishes


def reworded(wishes: list[Wish], prompts: list[str]) -> list[Wish]:
    """Return the wishes with other prompts, given in the same order."""
    return [replace(wish, prompt=text) for wish, text in zip(wishes, prompts, strict=True)]


def answer(
    pipeline: StableDiffusionXLPipeline,
    judge: Judge,
    wishes: list[Wish],
    seed: int = 1,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> list[Answer]:
    """Paint every wish with the pipeline and let the judge look at the pictures."""
    pipeline.set_progress_bar_config(disable=True)
    answers: list[Answer | None] = [None] * len(wishes)
    for aspect, (width, height) in CANVASES.items():
        places = [place for place, wish in enumerate(wishes) if wish.aspect == aspect]
        for first in range(0, len(places), BATCH):
            chosen = places[first : first + BATCH]
            images = pipeline(
                prompt=[wishes[place].prompt for place in chosen],
                width=width,
                height=height,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(seed + place) for place in chosen],
                output_type="np",
            ).images
            pixels = torch.cat([to_tensor(image) for image in images])
            for place, picture, verdict in zip(
                chosen, pixels, judge_pictures(judge, pixels), strict=True
            ):
                answers[place] = Answer(wishes[place], picture, verdict)
    return [one for one in answers if one is not None]


def shares(answers: list[Answer]) -> dict[str, float]:
    """Return for each attribute the share of answers that are right."""
    return {name: sum(one.right(name) for one in answers) / len(answers) for name in ATTRIBUTES}


def seconds_for_one(pipeline: StableDiffusionXLPipeline, rounds: int = 3) -> float:
    """Return the seconds that one picture takes, the best of a few."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        pipeline(
            prompt="a red car on a mountain road",
            width=192,
            height=192,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
        )
        best = min(best, time.perf_counter() - start)
    return best


def contact_sheet(answers: list[Answer], path: Path, columns: int = 8) -> None:
    """Write the pictures of one aspect ratio, each above what was asked and what was seen."""
    height, width = answers[0].pixels.shape[1:]
    rows = -(-len(answers) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + 24)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, one in enumerate(answers):
        row, column = divmod(place, columns)
        pixels = ((one.pixels.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
        x, y = column * width, row * (height + 24)
        sheet.paste(Image.fromarray(pixels), (x, y))
        scene = one.wish.scene
        asked = f"{scene.colour or ''} {scene.object or 'nothing'} {scene.setting or ''}".strip()
        wrong = [name for name in ATTRIBUTES if not one.right(name)]
        pen.text((x + 3, y + height), f"{asked} ({scene.style})"[: width // 6], fill="black")
        if wrong:
            seen = ", ".join(str(getattr(one.verdict, name)) for name in wrong)
            pen.text((x + 3, y + height + 11), f"seen: {seen}"[: width // 6], fill=(190, 0, 0))
    sheet.save(path)
