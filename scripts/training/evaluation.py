"""Evaluation: how well generated pictures follow prompts that were held out of training.

A pipeline paints, the judge classifies, and the accuracies are computed. Trains nothing.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image, ImageDraw
from training.captions import write_caption
from training.judging import ATTRIBUTES, Judge, Verdict, judge_pictures
from training.latents import to_tensor
from training.scene_catalog import CANVASES, COLOURS, SETTINGS, STYLES, Scene, held_out
from training.things import OBJECTS
from training.unet import GUIDANCE, STEPS

BATCH = 8


@dataclass(frozen=True)
class EvaluationPrompt:
    """A prompt with the scene that it describes and the picture's aspect ratio."""

    text: str
    scene: Scene
    aspect: str


@dataclass(frozen=True)
class EvaluationResult:
    """A prompt with the picture generated for it and the judge's verdict."""

    prompt: EvaluationPrompt
    pixels: torch.Tensor
    verdict: Verdict

    def right(self, attribute: str) -> bool:
        """Return whether the verdict equals the scene."""
        return getattr(self.verdict, attribute) == getattr(self.prompt.scene, attribute)


def held_out_prompts(number: int, seed: int = 400, aspect: str = "1:1") -> list[EvaluationPrompt]:
    """Return prompts whose object, colour and setting never occurred together in training.

    Objects and styles occur equally often.
    """
    rng = random.Random(seed)
    # Only of what can be dyed: a held-out combination has a colour.
    names = [name for name, thing in OBJECTS.items() if thing.dye]
    rng.shuffle(names)
    prompts = []
    for place in range(number):
        name = names[place % len(names)]
        while True:
            scene = Scene(
                name, rng.choice(COLOURS), rng.choice(SETTINGS), STYLES[place % len(STYLES)]
            )
            if held_out(scene):
                break
        prompts.append(EvaluationPrompt(write_caption(scene, rng), scene, aspect))
    return prompts


def with_texts(prompts: list[EvaluationPrompt], texts: list[str]) -> list[EvaluationPrompt]:
    """Return the prompts with other texts, given in the same order."""
    return [replace(prompt, text=text) for prompt, text in zip(prompts, texts, strict=True)]


def evaluate(
    pipeline: StableDiffusionXLPipeline,
    judge: Judge,
    prompts: list[EvaluationPrompt],
    seed: int = 1,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> list[EvaluationResult]:
    """Paint every prompt with the pipeline and classify the pictures with the judge."""
    pipeline.set_progress_bar_config(disable=True)
    results: list[EvaluationResult | None] = [None] * len(prompts)
    for aspect, (width, height) in CANVASES.items():
        places = [place for place, prompt in enumerate(prompts) if prompt.aspect == aspect]
        for first in range(0, len(places), BATCH):
            chosen = places[first : first + BATCH]
            images = pipeline(
                prompt=[prompts[place].text for place in chosen],
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
                results[place] = EvaluationResult(prompts[place], picture, verdict)
    return [result for result in results if result is not None]


def accuracies(results: list[EvaluationResult]) -> dict[str, float]:
    """Return for each attribute the share of pictures with the right verdict."""
    number = len(results)
    return {name: sum(result.right(name) for result in results) / number for name in ATTRIBUTES}


def seconds_for_one(pipeline: StableDiffusionXLPipeline, rounds: int = 3) -> float:
    """Return the seconds that one picture takes, the best of a few rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        pipeline(
            prompt="a red car on a mountain road",
            width=256,
            height=256,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
        )
        best = min(best, time.perf_counter() - start)
    return best


def contact_sheet(results: list[EvaluationResult], path: Path, columns: int = 8) -> None:
    """Write the pictures of one aspect ratio, each with its scene and any wrong verdict below."""
    height, width = results[0].pixels.shape[1:]
    rows = -(-len(results) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + 24)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, result in enumerate(results):
        row, column = divmod(place, columns)
        pixels = ((result.pixels.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
        x, y = column * width, row * (height + 24)
        sheet.paste(Image.fromarray(pixels), (x, y))
        scene = result.prompt.scene
        asked = f"{scene.colour or ''} {scene.object or 'nothing'} {scene.setting or ''}".strip()
        wrong = [name for name in ATTRIBUTES if not result.right(name)]
        draw.text((x + 3, y + height), f"{asked} ({scene.style})"[: width // 6], fill="black")
        if wrong:
            seen = ", ".join(str(getattr(result.verdict, name)) for name in wrong)
            draw.text((x + 3, y + height + 11), f"seen: {seen}"[: width // 6], fill=(190, 0, 0))
    sheet.save(path)
