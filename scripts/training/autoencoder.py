"""The AutoencoderKL, trained to encode and decode the patch latents of `latents`.

Both halves are trained separately: the decoder learns pixels from latents, better than the linear
map because it sees across patches, at first from the renders' own latents and then from those that
the UNet paints, with a critic of patches that asks for crisp edges; the encoder learns the latents
of pixels. The full-resolution layers cost most, so they are thin, and training uses crops.
Knows no prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional
from training import optimizing
from training.latents import CHANNELS, FACTOR, PatchBasis
from training.pools import Pools
from training.scene_catalog import CANVASES

CROP = 5
LEARNING_RATE = 2.5e-3
LATENT_NOISE = 0.08


def build_autoencoder() -> AutoencoderKL:
    """Return an untrained autoencoder."""
    widths = (32, 32, 64, 96, 128)
    autoencoder = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=256,
        scaling_factor=1.0,
        force_upcast=False,
        mid_block_add_attention=False,
    )
    with torch.no_grad():
        # The posterior's variance is next to zero, so that encoding is deterministic.
        autoencoder.quant_conv.weight[CHANNELS:] = 0
        autoencoder.quant_conv.bias[CHANNELS:] = -12.0
    return autoencoder


def decode(autoencoder: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Return pictures in [-1, 1], not clipped."""
    return autoencoder.decoder(autoencoder.post_quant_conv(latents))


def halves(autoencoder: AutoencoderKL) -> dict[str, nn.ModuleList]:
    """Return the modules of the "decoder" and of the "encoder"."""
    return {
        "decoder": nn.ModuleList([autoencoder.post_quant_conv, autoencoder.decoder]),
        "encoder": nn.ModuleList([autoencoder.quant_conv, autoencoder.encoder]),
    }


class Critic(nn.Module):
    """Tells rendered from decoded patches of about 20 pixels."""

    def __init__(self) -> None:
        super().__init__()

        def layer(into: int, out: int, kernel: int, stride: int) -> nn.Module:
            convolution = nn.Conv2d(into, out, kernel, stride, 1)
            return nn.utils.parametrizations.spectral_norm(convolution)

        self.layers = nn.ModuleList(
            [layer(3, 32, 4, 2), layer(32, 64, 3, 1), layer(64, 64, 4, 2), layer(64, 96, 3, 1)]
        )
        self.last = layer(96, 1, 3, 1)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return scores of patches and the activations on the way."""
        seen = []
        for each in self.layers:
            pixels = functional.leaky_relu(each(pixels), 0.2)
            seen.append(pixels)
        return self.last(pixels), seen


def pixel_and_edge_loss(output: torch.Tensor, target: torch.Tensor, edges: float) -> torch.Tensor:
    """Return the error of pixels, of their differences, and of the strength of edges in cells."""
    loss = functional.l1_loss(output, target)
    for axis in (2, 3):
        difference = functional.l1_loss(output.diff(dim=axis), target.diff(dim=axis))
        loss = loss + edges * difference
    return loss + 0.3 * functional.l1_loss(_edge_strength(output), _edge_strength(target))


def _edge_strength(pixels: torch.Tensor) -> torch.Tensor:
    across, down = pixels.diff(dim=3)[..., :-1, :], pixels.diff(dim=2)[..., :-1]
    squares = (across.square() + down.square()).sum(1, keepdim=True)
    return functional.avg_pool2d(squares.add(1e-4).sqrt(), 4)


@dataclass
class PaintedScenes:
    """Latents that the UNet painted, final and halfway, for places of a ring with pixels."""

    aspect: str
    places: torch.Tensor
    last: torch.Tensor
    middle: torch.Tensor


class Crops:
    """Draws crops of pictures on the latent grid, four fifths about the object, with latents."""

    def __init__(self, pools: Pools, basis: PatchBasis, batch: int) -> None:
        self._pools, self._basis, self._batch = pools, basis, batch

    def draw(
        self, painted: list[PaintedScenes], true_share: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents, N × 64 × 5 × 5, and pixels, N × 3 × 80 × 80.

        All are of one aspect ratio; without `painted` scenes all latents are the pixels' own.
        """
        scenes = None
        if painted:
            scenes = painted[int(torch.randint(len(painted), ()))]
            aspect = scenes.aspect
        else:
            stocked = [a for a in CANVASES if self._pools.pictures[a].count >= self._batch]
            aspect = (stocked or ["1:1"])[int(torch.randint(max(1, len(stocked)), ()))]
        ring = self._pools.pictures[aspect]
        device, number = ring.tensors["pixels"].device, self._batch
        if scenes is None:
            rows = ring.draw(number)
        else:
            chosen = torch.randint(len(scenes.places), (number,), device=device)
            rows = scenes.places[chosen]
        top, left = self._corners(ring.tensors["covered"][rows])
        steps = torch.arange(CROP, device=device)
        pixel_steps = torch.arange(CROP * FACTOR, device=device)
        y, x = top[:, None] * FACTOR + pixel_steps, left[:, None] * FACTOR + pixel_steps
        pixels = ring.tensors["pixels"][rows[:, None, None], y[:, :, None], x[:, None, :]]
        pixels = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = self._basis.encode(pixels)
        if scenes is not None:
            y, x = top[:, None, None] + steps[:, None], left[:, None, None] + steps
            at = (chosen[:, None, None], slice(None), y, x)
            halfway = torch.rand(number, device=device) < 0.1
            own = torch.where(
                halfway[:, None, None, None], scenes.middle[at].movedim(-1, 1),
                scenes.last[at].movedim(-1, 1),
            ).float()  # fmt: skip
            true = torch.rand(number, device=device) < true_share
            latents = torch.where(true[:, None, None, None], latents, own)
        return latents, pixels

    def _corners(self, covered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        number, down, across = covered.shape
        device = covered.device
        # A random patch of the object in most, any patch in the others, in the crop's middle.
        weights = covered.flatten(1).float()
        anywhere = torch.rand(number, 1, device=device) < 0.2
        weights = torch.where(anywhere, torch.ones_like(weights), weights) + 1e-4
        place = torch.multinomial(weights, 1)[:, 0]
        top = (place // across - torch.randint(CROP, (number,), device=device)).clamp(min=0)
        left = (place % across - torch.randint(CROP, (number,), device=device)).clamp(min=0)
        return top.clamp(max=down - CROP), left.clamp(max=across - CROP)


def train_decoder(
    autoencoder: AutoencoderKL,
    crops: Crops,
    budget: optimizing.Budget,
    painted: list[PaintedScenes],
    every: float = 60,
    export: Callable[[], None] | None = None,
) -> int:
    """Train the decoder until the budget is spent; return the number of crops.

    Without painted scenes it learns pixels alone, from true latents; with them the critic joins,
    and both rates fall to nothing.
    """
    modules = halves(autoencoder)["decoder"].to(memory_format=torch.channels_last)
    device = next(modules.parameters()).device
    optimizer = optimizing.Muon(modules, LEARNING_RATE, decay=0.0)
    average = optimizing.MovingAverage(modules, 0.995)
    critic = Critic().to(device, memory_format=torch.channels_last)
    critic_optimizer = torch.optim.Adam(critic.parameters(), 4e-4, betas=(0.5, 0.9))
    report = optimizing.Report("decoder")
    exported = optimizing.Budget(every)
    while budget.share < 1:
        rate = min(1, (report.steps + 1) / 60) * max(0.01, (1 - budget.share) ** 0.7)
        optimizing.set_learning_rate(optimizer, LEARNING_RATE * rate * (0.6 if painted else 1))
        optimizing.set_learning_rate(critic_optimizer, 4e-4 * max(0.1, rate))
        latents, pixels = crops.draw(painted, 0.25)
        noise = (LATENT_NOISE if not painted else 0.03) * torch.rand(len(latents), 1, 1, 1)
        latents = latents + noise.to(device) * torch.randn_like(latents)
        with optimizing.autocast(device):
            output = decode(autoencoder, latents.contiguous(memory_format=torch.channels_last))
        output = output.float()
        loss = pixel_and_edge_loss(output, pixels, 0.5 if painted else 1.0)
        measures = {"error": (output - pixels).detach().abs().mean()}
        if painted:
            # The critic comes in slowly once the pixels have settled.
            ramp = min(1.0, max(0.0, budget.share - 0.1) / 0.1)
            loss = loss + ramp * _critics_loss(critic, output, pixels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        average.update(modules)
        if painted:
            measures["critic"] = _train_critic(critic, critic_optimizer, output.detach(), pixels)
        report.add(len(latents), **measures)
        if export and exported.share == 1:
            with average.applied(modules):
                export()
            exported = optimizing.Budget(every)
    report.write(force=True)
    modules.load_state_dict(average.weights)
    return report.seen


def _critics_loss(critic: Critic, output: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    # In full precision: the spectral norm's power iteration needs it, and the critic is small.
    critic.requires_grad_(False)
    scores, seen = critic(output)
    with torch.no_grad():
        wanted = critic(pixels)[1]
    matching = torch.stack(
        [functional.l1_loss(one, other) for one, other in zip(seen, wanted, strict=True)]
    )
    critic.requires_grad_(True)
    return -0.1 * scores.mean() + 0.5 * matching.mean()


def _train_critic(
    critic: Critic, optimizer: torch.optim.Optimizer, output: torch.Tensor, pixels: torch.Tensor
) -> torch.Tensor:
    real, made = critic(pixels)[0], critic(output)[0]
    loss = functional.relu(1 - real).mean() + functional.relu(1 + made).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def train_encoder(autoencoder: AutoencoderKL, crops: Crops, budget: optimizing.Budget) -> int:
    """Train the encoder by regression until the budget is spent; return the number of crops."""
    modules = halves(autoencoder)["encoder"].to(memory_format=torch.channels_last)
    device = next(modules.parameters()).device
    optimizer = optimizing.Muon(modules, LEARNING_RATE, decay=0.0)
    average = optimizing.MovingAverage(modules, 0.99)
    report = optimizing.Report("encoder")
    while budget.share < 1:
        rate = min(1, (report.steps + 1) / 60) * max(0.02, (1 - budget.share) ** 0.7)
        optimizing.set_learning_rate(optimizer, LEARNING_RATE * rate)
        latents, pixels = crops.draw([], 1.0)
        with optimizing.autocast(device):
            output = autoencoder.quant_conv(autoencoder.encoder(pixels)).float()[:, :CHANNELS]
        loss = functional.mse_loss(output, latents)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        average.update(modules)
        report.add(len(latents), error=(output - latents).detach().abs().mean())
    report.write(force=True)
    modules.load_state_dict(average.weights)
    return report.seen
