"""The UNet: its shape, its scheduler, its sampling, and its training on rendered scenes.

Uses latents (`latents`) and text embeddings (`text_encoders`). A few steps are enough because a
prompt determines almost the whole scene; for the same reason many training timesteps are pure
noise. In the second part of the training the UNet also goes on from its own predictions, as it
does when it samples, so that it learns to mend its own mistakes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from training import optimizing
from training.codes import LENGTH
from training.latents import CHANNELS, FACTOR
from training.pools import Pools, Ring
from training.scene_catalog import CANVASES
from training.supply import CAPTIONS_PER_SCENE
from training.text_encoders import WIDTHS, TextEncoders

LEARNING_RATE = 3e-3
STEPS = 4
GUIDANCE = 1.5
SQUARE_SHARE = 0.45
# The share of the training after which the UNet goes on from its own predictions.
OWN_STEPS_FROM = 0.35
# Shares of a batch by the number of own steps already done, the rest being noised truths.
COHORTS = (0.40, 0.20, 0.14, 0.10)
# The distance of two steps, in timesteps, about that of four steps in all.
STRIDES = (125, 250, 250, 375)
LAST_TIMESTEP = 999
# Steps before graphs of kernels are captured: the optimizer's state must be there.
EAGER_STEPS = 12

Values = dict[str, torch.Tensor]


def build_unet() -> UNet2DConditionModel:
    """Return an untrained UNet of SDXL's kind; attention is kept to the lower resolutions.

    The lowest resolution has 2×2 places for a square picture: there a code becomes a shape.
    """
    widths = (144, 192, 192, 192)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D",) * 4,
        attention_head_dim=(4, 6, 6, 6),
        cross_attention_dim=sum(WIDTHS),
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

    The UNet predicts x0 rather than a velocity: with 64 values per patch and 144 channels, its
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


def time_ids(aspect: str, number: int, device: torch.device) -> torch.Tensor:
    """Return SDXL's micro-conditioning: original size, no crop, target size."""
    width, height = CANVASES[aspect]
    row = torch.tensor([[height, width, 0, 0, height, width]], device=device).float()
    return row.expand(number, -1)


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel,
    encoders: TextEncoders,
    tokens: torch.Tensor,
    aspect: str,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
) -> list[torch.Tensor]:
    """Return the clean latents predicted after each step, the last being the pipeline's."""
    device, number = tokens.device, len(tokens)
    scheduler = build_scheduler()
    scheduler.set_timesteps(steps)
    width, height = CANVASES[aspect]
    latents = torch.randn(number, CHANNELS, height // FACTOR, width // FACTOR, device=device)
    latents = latents.contiguous(memory_format=torch.channels_last)
    found = []
    with optimizing.autocast(device):
        states, pooled = encoders.encode(tokens)
        states = torch.cat([torch.zeros_like(states), states])
        pooled = torch.cat([torch.zeros_like(pooled), pooled])
        added = {"text_embeds": pooled, "time_ids": time_ids(aspect, 2 * number, device)}
        for timestep in scheduler.timesteps.tolist():
            doubled = torch.cat([latents, latents])
            pair = unet(doubled, timestep, states, added_cond_kwargs=added).sample.float()
            unconditional, conditional = pair.chunk(2)
            clean = unconditional + guidance * (conditional - unconditional)
            latents = scheduler.step(clean, timestep, latents).prev_sample
            found.append(clean)
    return found


class UNetTraining:
    """Trains the UNet on the pools' scenes; `average` has the weights to sample with."""

    def __init__(
        self, unet: UNet2DConditionModel, encoders: TextEncoders, pools: Pools, batch: int
    ) -> None:
        self.unet = unet.to(memory_format=torch.channels_last)
        self.average = optimizing.MovingAverage(unet, 0.997)
        self._encoders, self._pools, self._batch = encoders, pools, batch
        self._device = next(unet.parameters()).device
        self._optimizer = optimizing.Muon(unet, LEARNING_RATE)
        scheduler = build_scheduler()
        # On the device once: copying them at every step would wait for it.
        self._signal = scheduler.alphas_cumprod.sqrt().to(self._device)
        self._noise = (1 - scheduler.alphas_cumprod).sqrt().to(self._device)
        self._strides = torch.tensor(STRIDES, device=self._device)
        self._carried: dict[str, list[dict[str, torch.Tensor]]] = {each: [] for each in CANVASES}
        self._ids = {aspect: time_ids(aspect, batch, self._device) for aspect in CANVASES}
        self._graphs: dict[str, optimizing.Graphed] = {}
        self.report = optimizing.Report("painter")

    def train(
        self, budget: optimizing.Budget, every: float = 60, export: Callable[[], None] | None = None
    ) -> None:
        """Train until the budget is spent, calling `export` every so many seconds."""
        self.unet.train()
        exported = optimizing.Budget(every)
        while budget.share < 1:
            rate = LEARNING_RATE * min(1, (self.report.steps + 1) / 100)
            rate *= max(0.01, min(1, 1.15 * (1 - budget.share)))
            optimizing.set_learning_rate(self._optimizer, rate)
            self._step(self._draw_aspect(), budget.share > OWN_STEPS_FROM)
            if export and exported.share == 1:
                export()
                exported = optimizing.Budget(every)
        self.report.write(force=True)

    def _draw_aspect(self) -> str:
        aspects = tuple(CANVASES)
        if torch.rand(()).item() < SQUARE_SHARE:
            return aspects[0]
        aspect = aspects[1 + int(torch.randint(len(aspects) - 1, ()))]
        return aspect if self._pools.latents[aspect].count >= 2 * self._batch else aspects[0]

    def _step(self, aspect: str, own_steps: bool) -> None:
        ring = self._pools.latents[aspect]
        parts = self._compose(ring, self._carried[aspect] if own_steps else [])
        device = self._device
        places = torch.cat([part["places"] for part in parts])
        which = torch.cat([part["which"] for part in parts])
        dropped = torch.cat([part["dropped"] for part in parts])
        timesteps = torch.cat([part["timesteps"] for part in parts])
        tensors = ring.tensors
        latents = tensors["latents"][places].float()
        covered = tensors["covered"][places, None].float()
        signal = self._signal[timesteps][:, None, None, None]
        noise = self._noise[timesteps][:, None, None, None]
        # Noise for all of those that begin here; the others bring what they have reached.
        fresh = sum(len(part["places"]) for part in parts if "noisy" not in part)
        begun = signal[:fresh] * latents[:fresh]
        begun = begun + noise[:fresh] * torch.randn_like(latents[:fresh])
        noisy = torch.cat([begun, *(part["noisy"] for part in parts if "noisy" in part)])
        with optimizing.autocast(device), torch.no_grad():
            states, pooled = self._encoders.encode(tensors["tokens"][places, which].long())
        # Whole prompts are dropped for classifier-free guidance; the hidden states alone are
        # dropped more often, so that the picture depends on the pooled vector, whose code is fixed.
        blind = dropped | (torch.rand(len(places), device=device) < 0.4)
        values = {
            "noisy": noisy.contiguous(memory_format=torch.channels_last),
            "timesteps": timesteps,
            "states": states.masked_fill(blind[:, None, None], 0),
            "pooled": pooled.masked_fill(dropped[:, None], 0),
            "latents": latents,
            # Weighted as a velocity's error, clamped where hardly any noise is left.
            "weight": noise.pow(-2).clamp(max=3.0) * (1 + 3 * covered),
        }
        clean, error = self._learner(aspect)(values)
        self._carried[aspect] = self._go_on(parts, noisy, clean, signal, noise)
        self._measure(error, covered, parts)

    def _learner(self, aspect: str) -> Callable[[Values], tuple[torch.Tensor, torch.Tensor]]:
        """What learns from a batch: on a GPU, after some steps, by replaying a graph of kernels.

        The networks are so small that launching their kernels one by one takes longer than running
        them.
        """
        learn = functools.partial(self._learn, self._ids[aspect])
        if self._device.type != "cuda" or self.report.steps < EAGER_STEPS:
            return learn
        if aspect not in self._graphs:
            self._optimizer.zero_grad(set_to_none=True)
            self._graphs[aspect] = optimizing.Graphed(learn)
        return self._graphs[aspect]

    def _learn(self, ids: torch.Tensor, values: Values) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the clean latents predicted, and their squared error."""
        added = {"text_embeds": values["pooled"], "time_ids": ids}
        with optimizing.autocast(self._device):
            clean = self.unet(
                values["noisy"], values["timesteps"], values["states"], added_cond_kwargs=added
            ).sample.float()
        error = (clean - values["latents"]).square()
        self._optimizer.zero_grad(set_to_none=True)
        (error * values["weight"]).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self._optimizer.step()
        self.average.update(self.unet)
        return clean.detach(), error.detach()

    def _compose(self, ring: Ring, carried: list[dict[str, torch.Tensor]]) -> list[dict]:
        """Return the parts of a batch: noised truths, pure noise, and those on their own way."""
        device, batch = self._device, self._batch
        pure = int(batch * COHORTS[0])
        on_their_way = sum(len(part["places"]) for part in carried)
        true = batch - pure - on_their_way
        timesteps = torch.full((true + pure,), LAST_TIMESTEP, device=device)
        timesteps[:true] -= (torch.rand(true, device=device) * 900).long()
        places = ring.draw(true + pure)
        which = torch.randint(CAPTIONS_PER_SCENE, (true + pure,), device=device)
        dropped = torch.rand(true + pure, device=device) < 0.08
        columns = {"places": places, "which": which, "dropped": dropped, "timesteps": timesteps}
        split = [{name: each[:true] for name, each in columns.items()}]
        split += [{name: each[true:] for name, each in columns.items()}]
        return split + carried

    def _go_on(
        self,
        parts: list[dict[str, torch.Tensor]],
        noisy: torch.Tensor,
        clean: torch.Tensor,
        signal: torch.Tensor,
        noise: torch.Tensor,
    ) -> list[dict[str, torch.Tensor]]:
        """Return the scenes that go on, one DDIM step further, for the next batch of the aspect."""
        carried = []
        first = len(parts[0]["places"])
        for part, share in zip(parts[1:], COHORTS[1:], strict=False):
            number = min(int(self._batch * share), len(part["places"]))
            rows = slice(first, first + number)
            first += len(part["places"])
            drawn = torch.randint(len(STRIDES), (number,), device=self._device)
            timesteps = (part["timesteps"][:number] - self._strides[drawn]).clamp(min=60)
            direction = (noisy[rows] - signal[rows] * clean[rows]) / noise[rows]
            further = self._signal[timesteps][:, None, None, None] * clean[rows]
            further = further + self._noise[timesteps][:, None, None, None] * direction
            names = ("places", "which", "dropped")
            kept = {name: part[name][:number] for name in names}
            carried.append({**kept, "timesteps": timesteps, "noisy": further})
        return carried

    def _measure(
        self, error: torch.Tensor, covered: torch.Tensor, parts: list[dict[str, torch.Tensor]]
    ) -> None:
        true, pure = (len(part["places"]) for part in parts[:2])
        kept = (~parts[1]["dropped"]).float()[:, None, None, None]
        chosen = error[true : true + pure] * kept
        objects = chosen * covered[true : true + pure]
        measures = {
            "noise": chosen.mean() / kept.mean(),
            "object": objects.sum() / (covered[true : true + pure] * kept).sum() / CHANNELS,
        }
        if len(parts) == 2 + len(COHORTS) - 1:
            last = error[-len(parts[-1]["places"]) :]
            measures["own"] = last.mean()
        self.report.add(len(error), **measures)
