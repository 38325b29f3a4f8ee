"""The AutoencoderKL, taught to write and read the patch latents of `latents`.

Half of it each: the decoder learns pixels from latents, better than the linear answer since it
sees across patches, and the encoder learns the latents of pixels. The full-resolution layers are
the costly ones, so they are thin, and crops around the object are all it trains on. It knows
nothing of prompts.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch.nn import functional
from training import optimizing
from training.latents import CHANNELS, FACTOR, PatchBasis, random_scene, to_tensor
from training.scenes import Studio, place_object
from training.world import CANVASES

CROP = 5 * FACTOR
BATCH = 8
SHAKE = 0.08


def build_autoencoder() -> AutoencoderKL:
    """Return an untrained autoencoder."""
    widths = (32, 32, 64, 96, 128)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=192,
        scaling_factor=1.0,
        force_upcast=False,
        mid_block_add_attention=False,
    )


def random_crop(studio: Studio, chance: random.Random) -> numpy.ndarray:
    """Return a crop of a scene, CROP × CROP × 3, on the latent grid and mostly of its object."""
    scene = random_scene(chance)
    width, height = chance.choice(tuple(CANVASES.values()))
    pixels, _ = studio.paint(scene, width, height, chance.random() < 0.5)
    if chance.random() < 0.85:
        left, top, side = place_object(scene, width, height)
        x = left + chance.randint(-40, side - 40)
        y = top + chance.randint(-40, side - 40)
    else:
        x, y = chance.randint(0, width), chance.randint(0, height)
    x = min(max(0, x), width - CROP) // FACTOR * FACTOR
    y = min(max(0, y), height - CROP) // FACTOR * FACTOR
    return pixels[y : y + CROP, x : x + CROP].copy()


def decode(autoencoder: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Return pictures in [-1, 1], not clipped."""
    return autoencoder.decoder(autoencoder.post_quant_conv(latents))


def sharp_loss(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean error of pixels plus that of their differences, which keeps edges."""
    loss = functional.l1_loss(made, wanted) + 0.5 * functional.mse_loss(made, wanted)
    for axis in (2, 3):
        loss = loss + 0.5 * functional.l1_loss(made.diff(dim=axis), wanted.diff(dim=axis))
    return loss


def train_half(
    half: str, studio: Studio, basis: PatchBasis, folder: Path, minutes: float, reach: float
) -> None:
    """Train the "decoder" or the "encoder", going on from its checkpoint in `folder`.

    `minutes` is its whole plan, by which the rate falls; this call ends where `reach` (0 to 1)
    of the plan is done.
    """
    path = folder / f"{half}.pt"
    with torch.random.fork_rng():
        torch.manual_seed(4)
        autoencoder = build_autoencoder()
    modules = _halves(autoencoder)[half]
    steps, spent = 0, 0.0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        modules.load_state_dict(saved["weights"])
        steps, spent = saved["steps"], saved["spent"]
    budget = optimizing.Budget(minutes, spent)
    optimizer = optimizing.Muon(modules, 3e-3, decay=0.0)
    average = optimizing.Average(modules, 0.99)
    chance = random.Random(steps + 11)
    pool: list[numpy.ndarray] = []
    recent = 0.0
    begun = steps
    while budget.share < reach:
        rate = 3e-3 * min(1, (steps - begun + 1) / 30) * max(0.02, (1 - budget.share) ** 0.7)
        optimizing.set_rate(optimizer, rate)
        # Half of a batch is drawn now and half is from what was drawn before: drawing costs.
        fresh = [random_crop(studio, chance) for _ in range(BATCH // 2)]
        old = [chance.choice(pool) for _ in range(BATCH - len(fresh))] if pool else []
        pool = (pool + fresh)[-4000:]
        pixels = torch.cat([to_tensor(crop) for crop in fresh + old])
        latents = basis.encode(pixels)
        with optimizing.autocast():
            if half == "decoder":
                # Shaken, so that what the UNet leaves uncertain does not show.
                shaken = latents + SHAKE * torch.rand(len(latents), 1, 1, 1) * torch.randn_like(
                    latents
                )
                made = decode(autoencoder, shaken).float()
            else:
                made = autoencoder.quant_conv(autoencoder.encoder(pixels)).float()[:, :CHANNELS]
        loss = sharp_loss(made, pixels) if half == "decoder" else functional.mse_loss(made, latents)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        average.update(modules)
        steps += 1
        wanted = pixels if half == "decoder" else latents
        recent += functional.l1_loss(made.detach(), wanted).item() / 50
        if steps % 50 == 0:
            print(f"{half} step {steps} {budget.spent:.0f} s error {recent:.4f}", flush=True)
            recent = 0.0
        if steps % 200 == 0 or budget.share >= reach:
            state = {"weights": average.weights, "steps": steps, "spent": budget.spent}
            optimizing.save(path, state)


def _halves(autoencoder: AutoencoderKL) -> dict[str, torch.nn.ModuleList]:
    return {
        "decoder": torch.nn.ModuleList([autoencoder.post_quant_conv, autoencoder.decoder]),
        "encoder": torch.nn.ModuleList([autoencoder.quant_conv, autoencoder.encoder]),
    }


def load_autoencoder(folder: Path) -> AutoencoderKL:
    """Return the autoencoder with what its halves have learned so far."""
    autoencoder = build_autoencoder()
    for half, modules in _halves(autoencoder).items():
        path = folder / f"{half}.pt"
        if path.exists():
            modules.load_state_dict(torch.load(path, weights_only=True)["weights"])
    with torch.no_grad():
        # The latents are certain: the posterior's spread is next to nothing.
        autoencoder.quant_conv.weight[CHANNELS:] = 0
        autoencoder.quant_conv.bias[CHANNELS:] = -12.0
    return autoencoder.eval()


def compare(autoencoder: AutoencoderKL, studio: Studio, basis: PatchBasis, path: Path) -> float:
    """Write scenes above what the decoder makes of them; return the mean error in [-1, 1]."""
    chance = random.Random(3)
    columns, total = [], 0.0
    with torch.no_grad():
        for _ in range(8):
            pixels, _ = studio.paint(random_scene(chance), 192, 192)
            wanted = to_tensor(pixels)
            made = decode(autoencoder, basis.encode(wanted))
            total += functional.l1_loss(made, wanted).item() / 8
            columns.append(torch.cat([wanted[0], made[0].clamp(-1, 1)], 1))
    sheet = torch.cat(columns, 2).permute(1, 2, 0)
    Image.fromarray(((sheet + 1) * 127.5).byte().numpy()).save(path)
    return total
