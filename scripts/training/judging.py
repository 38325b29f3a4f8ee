"""The judge: a small network that classifies object, colour, setting and style of a picture.

It is trained on rendered scenes only, never on generated pictures, and knows nothing of the models
that it judges.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from training import optimizing
from training.codes import NAMES, SIZES_AND_VALUES
from training.latents import random_scene, to_tensor
from training.pools import Pools
from training.scene_catalog import CANVASES
from training.scene_renderer import SceneRenderer

ATTRIBUTES = ("object", "colour", "setting", "style")
_COLUMNS = {name: place for place, name in enumerate(SIZES_AND_VALUES)}


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


def train_judge(judge: Judge, pools: Pools, budget: optimizing.Budget, batch: int) -> int:
    """Train the judge on the pools' pictures; return how many it saw."""
    device = next(judge.parameters()).device
    judge.train().to(memory_format=torch.channels_last)
    optimizer = optimizing.Muon(judge, 3e-3)
    average = optimizing.MovingAverage(judge, 0.99)
    report = optimizing.Report("judge")
    while budget.share < 1:
        rate = 3e-3 * min(1, (report.steps + 1) / 40) * max(0.02, 1 - budget.share)
        optimizing.set_learning_rate(optimizer, rate)
        aspects = [a for a in CANVASES if pools.pictures[a].count >= batch] or ["1:1"]
        aspect = aspects[0] if torch.rand(()) < 0.5 else random.choice(aspects)
        ring = pools.pictures[aspect]
        places = ring.draw(batch)
        shown = ring.tensors["pixels"][places].permute(0, 3, 1, 2).float() / 127.5 - 1
        # Augmentation, since generated pictures are a little soft or uneven.
        if torch.rand(()) < 0.4:
            shown = functional.avg_pool2d(shown, 3, 1, 1, count_include_pad=False)
        shown = shown + 0.1 * torch.rand(()).item() * torch.randn_like(shown)
        with optimizing.autocast(device):
            scores = judge(shown.contiguous(memory_format=torch.channels_last))
        labels = ring.tensors["rows"][places].long()
        loss = torch.zeros((), device=device)
        right = {}
        for name in ATTRIBUTES:
            wanted = labels[:, _COLUMNS[name]]
            loss = loss + functional.cross_entropy(scores[name].float(), wanted)
            right[name] = (scores[name].argmax(1) == wanted).float().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        average.update(judge)
        report.add(batch, **right)
    report.write(force=True)
    judge.load_state_dict(average.weights)
    judge.eval()
    return report.seen


def load_judge(path: Path) -> Judge:
    """Return the judge of shipped weights."""
    judge = Judge()
    judge.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return judge.eval()


def check_judge(judge: Judge, renderer: SceneRenderer, number: int = 640) -> dict[str, float]:
    """Return the judge's accuracy on unseen renders, held-out combinations among them."""
    rng = random.Random(9_999)
    right = dict.fromkeys(ATTRIBUTES, 0)
    for _ in range(number):
        scene = random_scene(rng)
        pixels, _ = renderer.render(scene, *rng.choice(tuple(CANVASES.values())))
        verdict = judge_pictures(judge, to_tensor(pixels))[0]
        for name in ATTRIBUTES:
            right[name] += getattr(verdict, name) == getattr(scene, name)
    return {name: count / number for name, count in right.items()}
