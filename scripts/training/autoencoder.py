"""The AutoencoderKL, trained to encode and decode the patch latents of `latents`.

Both halves are trained separately: the decoder learns pixels from latents, better than the linear
map because it sees across patches, and the encoder learns the latents of pixels. The
full-resolution layers cost most, so they are thin, and training uses crops around the object only.
Knows no prompts.
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
from training.scene_catalog import CANVASES
from training.scene_renderer import SceneRenderer, place_object

CROP = 5 * FACTOR
BATCH = 8
LATENT_NOISE = 0.08


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


def random_crop(renderer: SceneRenderer, rng: random.Random) -> numpy.ndarray:
    """Return a crop of a scene, CROP × CROP × 3, on the latent grid and mostly of its object."""
    scene = random_scene(rng)
    width, height = rng.choice(tuple(CANVASES.values()))
    pixels, _ = renderer.render(scene, width, height, rng.random() < 0.5)
    if rng.random() < 0.85:
        left, top, side = place_object(scene, width, height)
        x = left + rng.randint(-40, side - 40)
        y = top + rng.randint(-40, side - 40)
    else:
        x, y = rng.randint(0, width), rng.randint(0, height)
    x = min(max(0, x), width - CROP) // FACTOR * FACTOR
    y = min(max(0, y), height - CROP) // FACTOR * FACTOR
    return pixels[y : y + CROP, x : x + CROP].copy()


def decode(autoencoder: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Return pictures in [-1, 1], not clipped."""
    return autoencoder.decoder(autoencoder.post_quant_conv(latents))


def pixel_and_edge_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the error of the pixels plus that of their differences, which keeps edges sharp."""
    loss = functional.l1_loss(output, target) + 0.5 * functional.mse_loss(output, target)
    for axis in (2, 3):
        loss = loss + 0.5 * functional.l1_loss(output.diff(dim=axis), target.diff(dim=axis))
    return loss


def train_autoencoder_half(
    half: str,
    renderer: SceneRenderer,
    basis: PatchBasis,
    folder: Path,
    minutes: float,
    until: float,
) -> None:
    """Train the "decoder" or the "encoder", resuming from its checkpoint in `folder`.

    `minutes` is its whole budget, over which the learning rate decays; this call ends when the
    share `until` (0 to 1) of it is used.
    """
    path = folder / f"{half}.pt"
    with torch.random.fork_rng():
        torch.manual_seed(4)
        autoencoder = build_autoencoder()
    modules = _trainable_halves(autoencoder)[half]
    steps, spent = 0, 0.0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        modules.load_state_dict(saved["weights"])
        steps, spent = saved["steps"], saved["spent"]
    budget = optimizing.Budget(minutes, spent)
    optimizer = optimizing.Muon(modules, 3e-3, decay=0.0)
    average = optimizing.MovingAverage(modules, 0.99)
    rng = random.Random(steps + 11)
    pool: list[numpy.ndarray] = []
    recent = 0.0
    begun = steps
    while budget.share < until:
        warmup = min(1, (steps - begun + 1) / 30)
        decay = max(0.02, (1 - budget.share) ** 0.7)
        optimizing.set_learning_rate(optimizer, 3e-3 * warmup * decay)
        # Half of a batch is rendered now and half was rendered before, because rendering is slow.
        fresh = [random_crop(renderer, rng) for _ in range(BATCH // 2)]
        old = [rng.choice(pool) for _ in range(BATCH - len(fresh))] if pool else []
        pool = (pool + fresh)[-4000:]
        pixels = torch.cat([to_tensor(crop) for crop in fresh + old])
        latents = basis.encode(pixels)
        with optimizing.autocast():
            if half == "decoder":
                # With noise, so that small errors of the UNet do not show.
                strength = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1)
                noisy = latents + strength * torch.randn_like(latents)
                output = decode(autoencoder, noisy).float()
            else:
                output = autoencoder.quant_conv(autoencoder.encoder(pixels)).float()[:, :CHANNELS]
        if half == "decoder":
            loss = pixel_and_edge_loss(output, pixels)
        else:
            loss = functional.mse_loss(output, latents)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        average.update(modules)
        steps += 1
        target = pixels if half == "decoder" else latents
        recent += functional.l1_loss(output.detach(), target).item() / 50
        if steps % 50 == 0:
            print(f"{half} step {steps} {budget.spent:.0f} s error {recent:.4f}", flush=True)
            recent = 0.0
        if steps % 200 == 0 or budget.share >= until:
            state = {"weights": average.weights, "steps": steps, "spent": budget.spent}
            optimizing.save(path, state)


def _trainable_halves(autoencoder: AutoencoderKL) -> dict[str, torch.nn.ModuleList]:
    return {
        "decoder": torch.nn.ModuleList([autoencoder.post_quant_conv, autoencoder.decoder]),
        "encoder": torch.nn.ModuleList([autoencoder.quant_conv, autoencoder.encoder]),
    }


def load_autoencoder(folder: Path) -> AutoencoderKL:
    """Return the autoencoder with the weights that its halves have learned so far."""
    autoencoder = build_autoencoder()
    for half, modules in _trainable_halves(autoencoder).items():
        path = folder / f"{half}.pt"
        if path.exists():
            modules.load_state_dict(torch.load(path, weights_only=True)["weights"])
    with torch.no_grad():
        # The posterior's variance is next to zero, so that encoding is deterministic.
        autoencoder.quant_conv.weight[CHANNELS:] = 0
        autoencoder.quant_conv.bias[CHANNELS:] = -12.0
    return autoencoder.eval()


def compare(
    autoencoder: AutoencoderKL, renderer: SceneRenderer, basis: PatchBasis, path: Path
) -> float:
    """Write scenes with their reconstructions below; return the mean error in [-1, 1]."""
    rng = random.Random(3)
    columns, total = [], 0.0
    with torch.no_grad():
        for _ in range(8):
            pixels, _ = renderer.render(random_scene(rng), 192, 192)
            target = to_tensor(pixels)
            output = decode(autoencoder, basis.encode(target))
            total += functional.l1_loss(output, target).item() / 8
            columns.append(torch.cat([target[0], output[0].clamp(-1, 1)], 1))
    sheet = torch.cat(columns, 2).permute(1, 2, 0)
    Image.fromarray(((sheet + 1) * 127.5).byte().numpy()).save(path)
    return total
