"""A training from its first picture to the export: the stages, one after the other, by the clock.

A stage that fails is reported and the next one begins, and the weights are written every minute:
a machine may be lent for a few minutes only and taken away at any moment.
"""

from __future__ import annotations

import copy
import functools
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from training import optimizing
from training.autoencoder import (
    Crops,
    PaintedScenes,
    decode,
    train_decoder,
    train_encoder,
)
from training.evaluation import held_out_prompts
from training.foundations import Foundations
from training.judging import train_judge
from training.networks import Networks, half_weights, write_pieces
from training.pools import Pools
from training.scene_catalog import CANVASES
from training.supply import Supply
from training.text_encoders import train_encoders
from training.unet import UNetTraining, sample

# The stages in order, each with its share of the time that is left once everything has started.
SHARES = {
    "encoders": 0.15,
    "first decoder": 0.035,
    "painter": 0.585,
    "decoder": 0.155,
    "judge": 0.05,
    "encoder": 0.02,
}
# The last part of the time, for writing the weights and the sheet.
RESERVE = 0.012


@dataclass(frozen=True)
class Sizes:
    """How many samples a step takes in each stage, and how many scenes are kept."""

    captions: int
    unet: int
    crops: int
    judge: int
    latents: int
    pictures: int
    scenes: int
    sheet: int


GPU_SIZES = Sizes(1024, 512, 160, 256, 160_000, 40_000, 32, 40)
CPU_SIZES = Sizes(64, 32, 8, 32, 6_000, 2_000, 16, 16)
TINY_SIZES = Sizes(8, 4, 2, 2, 64, 32, 4, 2)


class Session:
    """Trains networks for so many seconds and writes them into `pieces` as it goes."""

    def __init__(
        self,
        networks: Networks,
        supply: Supply,
        foundations: Foundations,
        vocabulary: Path,
        pieces: Path,
        seconds: float,
        sizes: Sizes,
        every: float = 60,
    ) -> None:
        self._networks, self._supply, self._foundations = networks, supply, foundations
        self._vocabulary, self._pieces = vocabulary, pieces
        self._seconds, self._sizes, self._every = seconds, sizes, every
        self._device = next(networks.unet.parameters()).device
        self._pools = Pools(supply, foundations.basis, self._device, sizes.latents, sizes.pictures)
        self._crops = Crops(self._pools, foundations.basis, sizes.crops)
        self._averaged_unet: dict[str, torch.Tensor] | None = None
        self._stages: dict[str, Callable[[optimizing.Budget], None]] = {
            "encoders": self._train_encoders,
            "first decoder": self._train_first_decoder,
            "painter": self._train_painter,
            "decoder": self._train_decoder,
            "judge": self._train_judge,
            "encoder": self._train_encoder,
        }

    def run(self, stages: list[str]) -> None:
        """Train the stages in order, and write everything at the end."""
        self._stage("self-check", self._check)
        chosen = {stage: share for stage, share in SHARES.items() if stage in stages}
        begin = time.monotonic() - optimizing.BEGUN
        length = self._seconds * (1 - RESERVE) - begin
        share_before = 0.0
        for stage, share in chosen.items():
            share_before += share / sum(chosen.values())
            # By the clock: what one stage left over, or took too much, is the next one's.
            left = begin + length * share_before - (time.monotonic() - optimizing.BEGUN)
            if left < 0.5:
                print(f"no time is left for {stage}", flush=True)
                continue
            budget = optimizing.Budget(left)
            self._stage(stage, functools.partial(self._stages[stage], budget))
            if stage in ("painter", "decoder", "judge"):
                self.write()
        self.write()
        self._stage("sheet", self.sheet)
        self._pools.stop()
        print(f"[{time.monotonic() - optimizing.BEGUN:5.0f} s] finished", flush=True)

    def _stage(self, name: str, work: Callable[[], None]) -> None:
        print(
            f"[{time.monotonic() - optimizing.BEGUN:5.0f} s] {name}: {self._supply.alive()} "
            f"processes, {self._pools.seen} scenes so far",
            flush=True,
        )
        try:
            work()
        except Exception:  # noqa: BLE001 - a failed stage must not cost the others' weights
            print(f"the stage {name} failed", flush=True)
            traceback.print_exc()

    def _check(self) -> None:
        """Run every network forwards and backwards once, and write the pieces."""
        networks, device = self._networks, self._device
        before = copy.deepcopy(networks.unet.state_dict())
        self._pools.wait("1:1", 8, 60)
        print(f"torch {torch.__version__} on {device}", flush=True)
        UNetTraining(networks.unet, networks.encoders, self._pools, 8)._step("1:1", False)
        networks.unet.zero_grad()
        networks.unet.load_state_dict(before)
        with optimizing.autocast(device):
            tokens, _ = self._supply.captions()
            networks.encoders.encode(tokens.to(device).long())
            latents, _ = self._crops.draw([], 1.0)
            decode(networks.vae, latents).mean().backward()
        networks.vae.zero_grad()
        self.write()

    def _train_encoders(self, budget: optimizing.Budget) -> None:
        encoders = self._networks.encoders
        seen = train_encoders(encoders, self._supply, self._foundations.codes, budget)
        self._count("encoders", seen)

    def _render_all(self) -> None:
        """Let the processes render, no captions alone any more, and scenes of every kind."""
        self._supply.stop_captions()
        self._supply.easy.clear()

    def _train_first_decoder(self, budget: optimizing.Budget) -> None:
        self._render_all()
        self._pools.wait("1:1", self._sizes.crops, 60)
        self._count("decoder", train_decoder(self._networks.vae, self._crops, budget, []))

    def _train_painter(self, budget: optimizing.Budget) -> None:
        self._render_all()
        networks = self._networks
        networks.encoders.requires_grad_(False).eval()
        self._pools.wait("1:1", self._sizes.unet, 60)
        training = UNetTraining(networks.unet, networks.encoders, self._pools, self._sizes.unet)
        self._averaged_unet = training.average.weights
        try:
            training.train(budget, self._every, self.write)
        finally:
            networks.unet.load_state_dict(training.average.weights)
            self._averaged_unet = None
            self._count("painter", training.report.seen)

    def _train_decoder(self, budget: optimizing.Budget) -> None:
        self._render_all()
        self._pools.wait("1:1", self._sizes.crops, 60)
        painted = self._paint(budget)
        seen = train_decoder(
            self._networks.vae, self._crops, budget, painted, self._every, self.write
        )
        self._count("decoder", seen)

    @torch.no_grad()
    def _paint(self, budget: optimizing.Budget) -> list[PaintedScenes]:
        """Return latents painted for the pools' pictures, in at most a fifth of the time."""
        # The pictures must stay those that are painted.
        self._pools.stop()
        networks = self._networks
        networks.unet.eval()
        painted: list[PaintedScenes] = []
        batch = max(1, self._sizes.unet // 2)
        parts: dict[str, list[list[torch.Tensor]]] = {aspect: [[], [], []] for aspect in CANVASES}
        rounds = 0
        while budget.share < 0.2:
            # The square ones are as many as all others.
            aspects = tuple(CANVASES)
            aspect = aspects[0] if rounds % 2 == 0 else aspects[1 + rounds // 2 % 4]
            rounds += 1
            ring = self._pools.pictures[aspect]
            if ring.count == 0:
                continue
            places = ring.draw(batch)
            tokens = ring.tensors["tokens"][places, 0].long()
            guidance = random.choice((1.0, 1.5, 2.0))
            steps = sample(networks.unet, networks.encoders, tokens, aspect, guidance)
            for column, found in zip(
                parts[aspect], (places, steps[-1].half(), steps[1].half()), strict=True
            ):
                column.append(found)
        for aspect, columns in parts.items():
            if columns[0]:
                painted.append(PaintedScenes(aspect, *(torch.cat(each) for each in columns)))
        print(f"painted {sum(len(each.places) for each in painted)} scenes", flush=True)
        return painted

    def _train_judge(self, budget: optimizing.Budget) -> None:
        self._render_all()
        # From pictures that stay the same it would learn the pictures, not the things.
        self._pools.resume()
        self._pools.wait("1:1", self._sizes.judge, 60)
        seen = train_judge(self._networks.judge, self._pools, budget, self._sizes.judge)
        self._count("judge", seen)

    def _train_encoder(self, budget: optimizing.Budget) -> None:
        self._render_all()
        self._pools.wait("1:1", self._sizes.crops, 60)
        self._count("encoder", train_encoder(self._networks.vae, self._crops, budget))

    def _count(self, stage: str, seen: int) -> None:
        progress = self._networks.progress
        progress[stage] = progress.get(stage, 0) + seen

    def write(self) -> None:
        """Write the weights as they are into the pieces."""
        weights = {name: half_weights(part) for name, part in self._networks.parts().items()}
        if self._averaged_unet is not None:
            weights["unet"] = {
                name: value.half().cpu().contiguous() for name, value in self._averaged_unet.items()
            }
        write_pieces(weights, dict(self._networks.progress), self._vocabulary, self._pieces)
        print(f"[{time.monotonic() - optimizing.BEGUN:5.0f} s] weights written", flush=True)

    @torch.no_grad()
    def sheet(self) -> None:
        """Write a sheet of held-out prompts' pictures, in the order that is printed."""
        networks, device = self._networks, self._device
        networks.unet.eval()
        prompts = held_out_prompts(self._sizes.sheet, seed=77)
        tokens = networks.encoders.tokenize([prompt.text for prompt in prompts]).to(device)
        latents = sample(networks.unet, networks.encoders, tokens, "1:1")[-1]
        with optimizing.autocast(device):
            pixels = torch.cat([decode(networks.vae, each).float() for each in latents.split(8)])
        pixels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu()
        columns = min(8, len(prompts))
        rows = -(-len(prompts) // columns)
        whole = Image.new("RGB", (columns * 256, rows * 256), "white")
        for place, (prompt, picture) in enumerate(zip(prompts, pixels, strict=True)):
            row, column = divmod(place, columns)
            whole.paste(Image.fromarray(picture.numpy()), (column * 256, row * 256))
            print(f"sheet {row + 1},{column + 1}: {prompt.text}", flush=True)
        whole.save(self._pieces / "sheet.jpg", quality=90)
