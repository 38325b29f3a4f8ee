"""The UNet: its shape, its conditioning, its training on freshly painted scenes, its sampling.

It reads latents (`latents`) and the encoders' answers (`wording`), and knows nothing of files of
the service. Few steps suffice because a scene leaves little open once the prompt is read; that is
why training looks most often where the picture is still pure noise.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch.nn import functional
from training import optimizing
from training.captions import say
from training.codes import LENGTH
from training.latents import CHANNELS, FACTOR, PatchBasis, to_tensor
from training.scenes import Studio
from training.wording import TOKENS
from training.world import (
    CANVASES,
    COLOURS,
    OBJECTS,
    SETTINGS,
    STYLES,
    Scene,
    held_out,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

BATCH = 64
RATE = 2e-3
STEPS = 8
GUIDANCE = 2.0
POOL = 12_000
SIMPLE = 36_000


def build_unet() -> UNet2DConditionModel:
    """Return an untrained UNet of SDXL's kind; attention is kept to the middle resolutions."""
    widths = (128, 192, 192)
    return UNet2DConditionModel(
        sample_size=12,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=tuple(width // 32 for width in widths),
        cross_attention_dim=64 + 192,
        transformer_layers_per_block=1,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=6 * 32 + LENGTH,
        use_linear_projection=True,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
    )


def build_scheduler() -> DDIMScheduler:
    """Return the scheduler that the pipeline ships: zero terminal SNR and trailing steps.

    The UNet gives the clean picture itself rather than a velocity: with 64 numbers a patch and
    128 channels, what room it has should not go to passing noise on (arXiv 2511.13720).
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="sample",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
    )


@dataclass(frozen=True)
class Reader:
    """The frozen text side: captions in, what the UNet is told out."""

    tokenizer: CLIPTokenizer
    first: CLIPTextModel
    second: CLIPTextModelWithProjection

    @torch.no_grad()
    def read(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return states, N × 77 × 256, and pooled vectors, N × LENGTH, as the pipeline makes."""
        tokens = self.tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
        ).input_ids
        one = self.first(tokens, output_hidden_states=True).hidden_states[-2]
        two = self.second(tokens, output_hidden_states=True)
        return torch.cat([one, two.hidden_states[-2]], -1), two.text_embeds


def time_ids(width: int, height: int, number: int) -> torch.Tensor:
    """Return SDXL's micro-conditioning: original size, no crop, target size."""
    return torch.tensor([[height, width, 0, 0, height, width]]).float().expand(number, -1)


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel,
    reader: Reader,
    captions: list[str],
    size: tuple[int, int],
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> torch.Tensor:
    """Return latents as the pipeline would make them, N × 64 × H/16 × W/16."""
    scheduler = build_scheduler()
    scheduler.set_timesteps(steps)
    states, pooled = reader.read(captions)
    number, (width, height) = len(captions), size
    generator = torch.Generator().manual_seed(seed)
    shape = (number, CHANNELS, height // FACTOR, width // FACTOR)
    latents = torch.randn(shape, generator=generator)
    states = torch.cat([torch.zeros_like(states), states])
    pooled = torch.cat([torch.zeros_like(pooled), pooled])
    told = {"text_embeds": pooled, "time_ids": time_ids(width, height, 2 * number)}
    for timestep in scheduler.timesteps:
        clean = unet(torch.cat([latents, latents]), timestep, states, added_cond_kwargs=told).sample
        free, bound = clean.chunk(2)
        clean = free + guidance * (bound - free)
        latents = scheduler.step(clean, timestep, latents).prev_sample
    return latents


@dataclass(frozen=True)
class Painted:
    """A scene with its latents and where its object lies, on the latent grid."""

    scene: Scene
    latents: torch.Tensor
    covered: torch.Tensor


class Easel:
    """Paints scenes for training, keeping earlier ones to show again with other words."""

    def __init__(self, studio: Studio, basis: PatchBasis, seed: int) -> None:
        self._studio, self._basis = studio, basis
        self._chance = random.Random(seed)
        self._pools: dict[str, list[Painted]] = {aspect: [] for aspect in CANVASES}
        self._things: list[str] = []

    def batch(self, number: int, maturity: float) -> tuple[str, list[Painted], list[str]]:
        """Return an aspect, its painted scenes and a caption for each.

        Until `maturity` reaches 1, all is square, of normal size and in the centre.
        """
        chance = self._chance
        square = 1.0 if maturity < 1 else 0.32
        aspect = "1:1" if chance.random() < square else chance.choice(tuple(CANVASES)[1:])
        pool = self._pools[aspect]
        fresh = number if len(pool) < 4 * number else number // 4
        made = [self._paint(aspect, maturity) for _ in range(fresh)]
        rest = chance.sample(pool, number - fresh) if fresh < number else []
        pool.extend(made)
        del pool[: max(0, len(pool) - (POOL if aspect == "1:1" else POOL // 4))]
        chosen = made + rest
        return aspect, chosen, [say(painted.scene, chance) for painted in chosen]

    def _paint(self, aspect: str, maturity: float) -> Painted:
        width, height = CANVASES[aspect]
        scene = self._wish(maturity)
        pixels, mask = self._studio.paint(scene, width, height)
        latents = self._basis.encode(to_tensor(pixels))[0]
        covered = functional.avg_pool2d(torch.from_numpy(mask)[None], FACTOR)
        return Painted(scene, latents.half(), (covered > 0.02).half())

    def _wish(self, maturity: float) -> Scene:
        chance = self._chance
        while True:
            if not self._things:
                # By rounds rather than by lot: every object exactly equally often.
                self._things = list(OBJECTS)
                chance.shuffle(self._things)
            thing = self._things.pop() if chance.random() < 0.97 else None
            styled = 0.4 if maturity < 1 else 0.8
            plain = chance.random() < 0.7 or maturity < 1
            scene = Scene(
                object=thing,
                colour=chance.choice(COLOURS) if thing and chance.random() < 0.65 else None,
                setting=chance.choice(SETTINGS) if chance.random() < 0.85 else None,
                style=chance.choice(STYLES) if chance.random() < styled else "general",
                size="normal"
                if plain or not thing
                else chance.choice(("normal", "small", "large")),
                position=(
                    "centre" if plain or not thing else chance.choice(("centre", "left", "right"))
                ),
            )
            if not held_out(scene):
                return scene


def timesteps_for(number: int) -> torch.Tensor:
    """Draw timesteps: many at pure noise, where the prompt is all there is, the rest evenly."""
    drawn = 999 - (torch.rand(number) * 900).long()
    drawn[torch.rand(number) < 0.4] = 999
    return drawn


@dataclass
class Painter:
    """A UNet in training: its weights, their average, and how far it has come."""

    unet: UNet2DConditionModel
    average: optimizing.Average
    optimizer: optimizing.Muon
    warmth: int = 0
    steps: int = 0
    seen: int = 0
    spent: float = 0.0

    @staticmethod
    def load(folder: Path) -> Painter:
        """Return the painter of the checkpoint in `folder`, or a new one."""
        # Convolutions over patches with their channels together take a sixth less time on a CPU.
        unet = build_unet().to(memory_format=torch.channels_last)
        painter = Painter(unet, optimizing.Average(unet, 0.998), optimizing.Muon(unet, RATE))
        path = folder / "unet.pt"
        if path.exists():
            saved = torch.load(path, weights_only=True)
            unet.load_state_dict({n: v.float() for n, v in saved["weights"].items()})
            painter.average.restore(saved["average"], saved["steps"])
            painter.steps, painter.seen = saved["steps"], saved["seen"]
            painter.spent = saved["spent"]
        return painter

    def averaged(self) -> UNet2DConditionModel:
        """Return a UNet of the averaged weights, ready to sample."""
        unet = build_unet()
        unet.load_state_dict(self.average.weights)
        return unet.eval()

    def save(self, folder: Path) -> None:
        """Write the checkpoint."""
        state = {
            "weights": optimizing.halved(self.unet.state_dict()),
            "average": optimizing.halved(self.average.weights),
            "steps": self.steps,
            "seen": self.seen,
            "spent": self.spent,
        }
        optimizing.save(folder / "unet.pt", state)


def train_painter(
    painter: Painter,
    easel: Easel,
    reader: Reader,
    folder: Path,
    minutes: float,
    whole: float,
    pause: float,
) -> None:
    """Train for `minutes` by the clock; `whole` is the entire plan's minutes of computing.

    The rate falls over the whole plan and `pause` minutes pass between two checkpoints, so that
    stopping at any moment loses little.
    """
    unet, scheduler = painter.unet, build_scheduler()
    signal = scheduler.alphas_cumprod.sqrt()
    noise_share = (1 - scheduler.alphas_cumprod).sqrt()
    optimizer = painter.optimizer
    start, before = time.monotonic(), painter.spent
    computed = time.process_time()
    saved_at, told_at, losses = start, start, []
    while time.monotonic() - start < minutes * 60:
        painter.spent = before + time.process_time() - computed
        share = min(1.0, painter.spent / (whole * 60))
        # The momentum is not kept in checkpoints: it has to be found again first.
        painter.warmth += 1
        warm = min(1.0, painter.warmth / 60)
        optimizing.set_rate(optimizer, RATE * warm * max(0.03, 1 - share))
        aspect, painted, captions = easel.batch(BATCH, painter.seen / SIMPLE)
        latents = torch.stack([one.latents for one in painted]).float()
        latents = latents.contiguous(memory_format=torch.channels_last)
        covered = torch.stack([one.covered for one in painted]).float()
        with optimizing.autocast():
            states, pooled = reader.read(captions)
        states, pooled = states.float(), pooled.float()
        # Whole prompts are dropped for guidance; states alone, so that the pooled vector, whose
        # meaning is fixed, is what the picture is made from.
        dropped = torch.rand(BATCH) < 0.08
        states = states.masked_fill((dropped | (torch.rand(BATCH) < 0.25))[:, None, None], 0)
        pooled = pooled.masked_fill(dropped[:, None], 0)
        timesteps = timesteps_for(BATCH)
        alpha = signal[timesteps][:, None, None, None]
        sigma = noise_share[timesteps][:, None, None, None]
        noise = torch.randn_like(latents)
        told = {"text_embeds": pooled, "time_ids": time_ids(*CANVASES[aspect], BATCH)}
        with optimizing.autocast():
            clean = unet(
                alpha * latents + sigma * noise, timesteps, states, added_cond_kwargs=told
            ).sample
        error = (clean.float() - latents).square()
        # The weight of a velocity's error, cut off where hardly any noise is left.
        weight = sigma.pow(-2).clamp(max=3.0)
        loss = (error * weight * (1 + 3 * covered)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        painter.average.update(unet)
        painter.steps += 1
        painter.seen += BATCH
        pure = timesteps == 999
        if pure.any():
            losses.append((loss.item(), error[pure].mean().item()))
        now = time.monotonic()
        if now - told_at > 30:
            mean = [sum(column) / len(losses) for column in zip(*losses, strict=True)]
            print(
                f"unet step {painter.steps} {painter.spent / 60:.1f} min seen {painter.seen} "
                f"loss {mean[0]:.4f} from noise {mean[1]:.4f}",
                flush=True,
            )
            told_at, losses = now, []
        if now - saved_at > pause * 60:
            painter.save(folder)
            saved_at = now
    painter.save(folder)
