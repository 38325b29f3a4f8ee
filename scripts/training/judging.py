"""The judge: a small network that classifies object, colour, setting and style of a picture.

It is trained on rendered scenes only, never on generated pictures, and knows nothing of the models
that it judges.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from training import optimizing
from training.codes import NAMES
from training.latents import random_scene, to_tensor
from training.scene_catalog import CANVASES, Scene
from training.scene_renderer import SceneRenderer

ATTRIBUTES = ("object", "colour", "setting", "style")
BATCH = 64


class Judge(nn.Module):
    """A convolutional network with a class for each attribute; class 0 means none."""

    def __init__(self) -> None:
        super().__init__()

        def stage(into: int, out: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(into, out, 3, stride, 1), nn.GroupNorm(8, out), nn.SiLU()]

        self.body = nn.Sequential(
            *stage(3, 32, 2), *stage(32, 64, 2), *stage(64, 64, 1), *stage(64, 128, 2),
            *stage(128, 128, 1), *stage(128, 192, 2), *stage(192, 192, 1),
        )  # fmt: skip
        self.heads = nn.ModuleDict(
            {name: nn.Linear(192 * 2, len(NAMES[name]) + 1) for name in ATTRIBUTES}
        )

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the scores of each attribute's values for pictures in [-1, 1]."""
        seen = self.body(functional.avg_pool2d(pixels, 2))
        pooled = torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], 1)
        return {name: head(pooled) for name, head in self.heads.items()}


@dataclass(frozen=True)
class Verdict:
    """The judge's classification of a picture."""

    object: str | None
    colour: str | None
    setting: str | None
    style: str | None


@torch.no_grad()
def judge_pictures(judge: Judge, pixels: torch.Tensor) -> list[Verdict]:
    """Return the verdicts on pictures in [-1, 1], N × 3 × H × W."""
    scores = judge(pixels.clamp(-1, 1))
    columns = []
    for name in ATTRIBUTES:
        names = (None, *NAMES[name])
        columns.append([names[int(place)] for place in scores[name].argmax(1)])
    return [Verdict(*row) for row in zip(*columns, strict=True)]


def _render_batch(
    renderer: SceneRenderer, rng: random.Random
) -> tuple[str, list[Scene], torch.Tensor]:
    aspect = rng.choice(("1:1", "1:1", "1:1", *CANVASES))
    width, height = CANVASES[aspect]
    scenes = [random_scene(rng) for _ in range(BATCH // 2)]
    pixels = [
        to_tensor(renderer.render(scene, width, height, rng.random() < 0.5)[0]) for scene in scenes
    ]
    return aspect, scenes, torch.cat(pixels)


def _labels(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    return {
        name: torch.tensor(
            [0 if (v := getattr(s, name)) is None else NAMES[name].index(v) + 1 for s in scenes]
        )
        for name in ATTRIBUTES
    }


def train_judge(renderer: SceneRenderer, folder: Path, minutes: float) -> None:
    """Train the judge, resuming from its checkpoint in `folder`."""
    judge = Judge()
    path = folder / "judge.pt"
    steps, spent = 0, 0.0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        judge.load_state_dict(saved["weights"])
        steps, spent = saved["steps"], saved["spent"]
    rng = random.Random(31 + steps)
    budget = optimizing.Budget(minutes, spent)
    optimizer = optimizing.Muon(judge, 2e-3)
    pools: dict[str, list[tuple[list[Scene], torch.Tensor]]] = {aspect: [] for aspect in CANVASES}
    right: dict[str, list[float]] = {name: [] for name in ATTRIBUTES}
    begun = steps
    while budget.share < 1:
        learning_rate = 2e-3 * min(1, (steps - begun + 1) / 30) * max(0.02, 1 - budget.share)
        optimizing.set_learning_rate(optimizer, learning_rate)
        aspect, scenes, pixels = _render_batch(renderer, rng)
        pool = pools[aspect]
        if pool:
            old_scenes, old_pixels = rng.choice(pool)
            both, shown = scenes + old_scenes, torch.cat([pixels, old_pixels.float() / 127.5 - 1])
        else:
            both, shown = scenes, pixels
        pool.append((scenes, ((pixels + 1) * 127.5).round().byte()))
        del pool[:-60]
        # Augmentation, since generated pictures are a little soft or uneven.
        if rng.random() < 0.4:
            shown = functional.avg_pool2d(shown, 3, 1, 1, count_include_pad=False)
        shown = shown + 0.1 * rng.random() * torch.randn_like(shown)
        with optimizing.autocast():
            scores = judge(shown)
        labels = _labels(both)
        loss = torch.zeros(())
        for name in ATTRIBUTES:
            loss = loss + functional.cross_entropy(scores[name].float(), labels[name])
            hits = (scores[name].argmax(1) == labels[name])[: len(scenes)].float().mean().item()
            right[name].append(hits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        if steps % 50 == 0:
            summary = " ".join(f"{name} {sum(v) / len(v):.3f}" for name, v in right.items())
            print(f"judge step {steps} {budget.spent:.0f} s {summary}", flush=True)
            right = {name: [] for name in ATTRIBUTES}
        if steps % 200 == 0 or budget.share >= 1:
            optimizing.save(
                path, {"weights": judge.state_dict(), "steps": steps, "spent": budget.spent}
            )


def save_judge(judge: Judge, path: Path) -> None:
    """Write the judge's weights in half precision, small enough to be shipped."""
    save_file({name: value.half().contiguous() for name, value in judge.state_dict().items()}, path)


def load_judge(path: Path) -> Judge:
    """Return the judge of a checkpoint or of shipped weights."""
    judge = Judge()
    if path.suffix == ".safetensors":
        weights = {name: value.float() for name, value in load_file(path).items()}
    else:
        weights = torch.load(path, weights_only=True)["weights"]
    judge.load_state_dict(weights)
    return judge.eval()


def check_judge(judge: Judge, renderer: SceneRenderer, number: int = 640) -> dict[str, float]:
    """Return the judge's accuracy on unseen renders."""
    rng = random.Random(9_999)
    right = {name: 0.0 for name in ATTRIBUTES}
    rounds = number // (BATCH // 2)
    with torch.no_grad():
        for _ in range(rounds):
            _, scenes, pixels = _render_batch(renderer, rng)
            scores, labels = judge(pixels), _labels(scenes)
            for name in ATTRIBUTES:
                hits = (scores[name].argmax(1) == labels[name]).float().mean().item()
                right[name] += hits / rounds
    return right
