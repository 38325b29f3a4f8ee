"""The UNet: its shape, its conditioning, its training on freshly rendered scenes, its sampling.

Uses latents (`latents`) and text embeddings (`text_encoders`). A few steps are enough because a
prompt determines almost the whole scene; for the same reason many training timesteps are pure
noise.
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
from training.captions import write_caption
from training.codes import LENGTH
from training.latents import CHANNELS, FACTOR, PatchBasis, to_tensor
from training.scene_catalog import (
    CANVASES,
    COLOURS,
    OBJECTS,
    SETTINGS,
    STYLES,
    Scene,
    held_out,
)
from training.scene_renderer import SceneRenderer
from training.text_encoders import TOKENS
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

BATCH = 64
LEARNING_RATE = 2e-3
STEPS = 8
GUIDANCE = 2.0
POOL_SIZE = 12_000
EASY_PICTURES = 36_000


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

    The UNet predicts x0 rather than a velocity: with 64 values per patch and 128 channels, its
    capacity should not be spent on passing noise through (arXiv:2511.13720).
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
class TextEncoders:
    """The frozen text encoders with their tokenizer."""

    tokenizer: CLIPTokenizer
    first: CLIPTextModel
    second: CLIPTextModelWithProjection

    @torch.no_grad()
    def encode(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return hidden states, N × 77 × 256, and pooled vectors, N × LENGTH."""
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
    text_encoders: TextEncoders,
    captions: list[str],
    size: tuple[int, int],
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> torch.Tensor:
    """Return latents as the pipeline samples them, N × 64 × H/16 × W/16."""
    scheduler = build_scheduler()
    scheduler.set_timesteps(steps)
    states, pooled = text_encoders.encode(captions)
    number, (width, height) = len(captions), size
    generator = torch.Generator().manual_seed(seed)
    shape = (number, CHANNELS, height // FACTOR, width // FACTOR)
    latents = torch.randn(shape, generator=generator)
    states = torch.cat([torch.zeros_like(states), states])
    pooled = torch.cat([torch.zeros_like(pooled), pooled])
    added_cond = {"text_embeds": pooled, "time_ids": time_ids(width, height, 2 * number)}
    for timestep in scheduler.timesteps:
        doubled = torch.cat([latents, latents])
        pred_x0 = unet(doubled, timestep, states, added_cond_kwargs=added_cond).sample
        unconditional, conditional = pred_x0.chunk(2)
        pred_x0 = unconditional + guidance * (conditional - unconditional)
        latents = scheduler.step(pred_x0, timestep, latents).prev_sample
    return latents


@dataclass(frozen=True)
class RenderedScene:
    """A scene with its latents and its object's mask on the latent grid."""

    scene: Scene
    latents: torch.Tensor
    object_mask: torch.Tensor


class TrainingSet:
    """Renders scenes for training, and reuses earlier ones with new captions."""

    def __init__(self, renderer: SceneRenderer, basis: PatchBasis, seed: int) -> None:
        self._renderer, self._basis = renderer, basis
        self._rng = random.Random(seed)
        self._pools: dict[str, list[RenderedScene]] = {aspect: [] for aspect in CANVASES}
        self._names: list[str] = []

    def batch(self, number: int, difficulty: float) -> tuple[str, list[RenderedScene], list[str]]:
        """Return an aspect ratio, rendered scenes of it and a caption for each.

        While `difficulty` is below 1, all are square, with objects of normal size in the centre.
        """
        rng = self._rng
        square = 1.0 if difficulty < 1 else 0.32
        aspect = "1:1" if rng.random() < square else rng.choice(tuple(CANVASES)[1:])
        pool = self._pools[aspect]
        fresh = number if len(pool) < 4 * number else number // 4
        fresh_scenes = [self._render(aspect, difficulty) for _ in range(fresh)]
        rest = rng.sample(pool, number - fresh) if fresh < number else []
        pool.extend(fresh_scenes)
        del pool[: max(0, len(pool) - (POOL_SIZE if aspect == "1:1" else POOL_SIZE // 4))]
        chosen = fresh_scenes + rest
        return aspect, chosen, [write_caption(rendered.scene, rng) for rendered in chosen]

    def _render(self, aspect: str, difficulty: float) -> RenderedScene:
        width, height = CANVASES[aspect]
        scene = self._random_scene(difficulty)
        pixels, mask = self._renderer.render(scene, width, height)
        latents = self._basis.encode(to_tensor(pixels))[0]
        object_mask = functional.avg_pool2d(torch.from_numpy(mask)[None], FACTOR)
        return RenderedScene(scene, latents.half(), (object_mask > 0.02).half())

    def _random_scene(self, difficulty: float) -> Scene:
        rng = self._rng
        while True:
            if not self._names:
                # By rounds, so that every object occurs equally often.
                self._names = list(OBJECTS)
                rng.shuffle(self._names)
            name = self._names.pop() if rng.random() < 0.97 else None
            styled = 0.4 if difficulty < 1 else 0.8
            plain = rng.random() < 0.7 or difficulty < 1
            scene = Scene(
                object=name,
                colour=rng.choice(COLOURS) if name and rng.random() < 0.65 else None,
                setting=rng.choice(SETTINGS) if rng.random() < 0.85 else None,
                style=rng.choice(STYLES) if rng.random() < styled else "general",
                size="normal" if plain or not name else rng.choice(("normal", "small", "large")),
                position=(
                    "centre" if plain or not name else rng.choice(("centre", "left", "right"))
                ),
            )
            if not held_out(scene):
                return scene


def timesteps_for(number: int) -> torch.Tensor:
    """Sample timesteps: many at pure noise, where only the prompt counts, the rest uniformly."""
    drawn = 999 - (torch.rand(number) * 900).long()
    drawn[torch.rand(number) < 0.4] = 999
    return drawn


@dataclass
class UNetTraining:
    """A UNet in training: its weights, their moving average, and the progress."""

    unet: UNet2DConditionModel
    average: optimizing.MovingAverage
    optimizer: optimizing.Muon
    warmup: int = 0
    steps: int = 0
    seen: int = 0
    spent: float = 0.0

    @staticmethod
    def load(folder: Path) -> UNetTraining:
        """Return the training of the checkpoint in `folder`, or a new one."""
        # channels_last makes these convolutions a sixth faster on a CPU.
        unet = build_unet().to(memory_format=torch.channels_last)
        average = optimizing.MovingAverage(unet, 0.998)
        training = UNetTraining(unet, average, optimizing.Muon(unet, LEARNING_RATE))
        path = folder / "unet.pt"
        if path.exists():
            saved = torch.load(path, weights_only=True)
            unet.load_state_dict({n: v.float() for n, v in saved["weights"].items()})
            training.average.restore(saved["average"], saved["steps"])
            training.steps, training.seen = saved["steps"], saved["seen"]
            training.spent = saved["spent"]
        return training

    def averaged(self) -> UNet2DConditionModel:
        """Return a UNet with the averaged weights, for sampling."""
        unet = build_unet()
        unet.load_state_dict(self.average.weights)
        return unet.eval()

    def save(self, folder: Path) -> None:
        """Write the checkpoint."""
        state = {
            "weights": optimizing.to_half(self.unet.state_dict()),
            "average": optimizing.to_half(self.average.weights),
            "steps": self.steps,
            "seen": self.seen,
            "spent": self.spent,
        }
        optimizing.save(folder / "unet.pt", state)


def train_unet(
    training: UNetTraining,
    training_set: TrainingSet,
    text_encoders: TextEncoders,
    folder: Path,
    minutes: float,
    planned_minutes: float,
    checkpoint_minutes: float,
) -> None:
    """Train for `minutes` of wall-clock time.

    The learning rate decays over `planned_minutes` of processor time; a checkpoint is written every
    `checkpoint_minutes`.
    """
    unet, scheduler = training.unet, build_scheduler()
    signal = scheduler.alphas_cumprod.sqrt()
    noise_share = (1 - scheduler.alphas_cumprod).sqrt()
    optimizer = training.optimizer
    start, before = time.monotonic(), training.spent
    computed = time.process_time()
    saved_at, reported_at, losses = start, start, []
    while time.monotonic() - start < minutes * 60:
        training.spent = before + time.process_time() - computed
        share = min(1.0, training.spent / (planned_minutes * 60))
        # Checkpoints do not contain the momentum, so that every run begins with a warmup.
        training.warmup += 1
        warm = min(1.0, training.warmup / 60)
        optimizing.set_learning_rate(optimizer, LEARNING_RATE * warm * max(0.03, 1 - share))
        aspect, rendered, captions = training_set.batch(BATCH, training.seen / EASY_PICTURES)
        latents = torch.stack([one.latents for one in rendered]).float()
        latents = latents.contiguous(memory_format=torch.channels_last)
        object_mask = torch.stack([one.object_mask for one in rendered]).float()
        with optimizing.autocast():
            states, pooled = text_encoders.encode(captions)
        states, pooled = states.float(), pooled.float()
        # Whole prompts are dropped for classifier-free guidance; the hidden states alone are
        # dropped more often, so that the picture depends on the pooled vector, whose code is fixed.
        dropped = torch.rand(BATCH) < 0.08
        states = states.masked_fill((dropped | (torch.rand(BATCH) < 0.25))[:, None, None], 0)
        pooled = pooled.masked_fill(dropped[:, None], 0)
        timesteps = timesteps_for(BATCH)
        alpha = signal[timesteps][:, None, None, None]
        sigma = noise_share[timesteps][:, None, None, None]
        noise = torch.randn_like(latents)
        added_cond = {"text_embeds": pooled, "time_ids": time_ids(*CANVASES[aspect], BATCH)}
        with optimizing.autocast():
            pred_x0 = unet(
                alpha * latents + sigma * noise, timesteps, states, added_cond_kwargs=added_cond
            ).sample
        error = (pred_x0.float() - latents).square()
        # Weighted as a velocity's error, clamped where hardly any noise is left.
        weight = sigma.pow(-2).clamp(max=3.0)
        loss = (error * weight * (1 + 3 * object_mask)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        training.average.update(unet)
        training.steps += 1
        training.seen += BATCH
        pure = timesteps == 999
        if pure.any():
            losses.append((loss.item(), error[pure].mean().item()))
        now = time.monotonic()
        if now - reported_at > 30:
            mean = [sum(column) / len(losses) for column in zip(*losses, strict=True)]
            print(
                f"unet step {training.steps} {training.spent / 60:.1f} min seen {training.seen} "
                f"loss {mean[0]:.4f} from noise {mean[1]:.4f}",
                flush=True,
            )
            reported_at, losses = now, []
        if now - saved_at > checkpoint_minutes * 60:
            training.save(folder)
            saved_at = now
    training.save(folder)
