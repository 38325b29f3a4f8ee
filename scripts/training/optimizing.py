"""Shared by all stages: optimizer, autocast, moving average of weights, checkpoint file, budget."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from banatie.devices.runtime import fastest_cpu_dtype

BFLOAT16 = fastest_cpu_dtype(torch.cpu.get_capabilities()) == torch.bfloat16


def autocast() -> torch.autocast:
    """Return the context in which networks compute, in bfloat16 where that is fast."""
    return torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16)


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix updates are orthogonalised; AdamW for vectors and odd layers.

    From K. Jordan, "Muon" (2024), with the step scaled to AdamW's as in "Muon is scalable for
    LLM training" (arXiv 2502.16982). On these networks it needs about half of AdamW's steps.
    """

    def __init__(self, module: nn.Module, rate: float, decay: float = 0.01) -> None:
        matrices, others = [], []
        for parameter in module.parameters():
            if parameter.requires_grad:
                wide = parameter.ndim >= 2 and min(parameter.flatten(1).shape) >= 16
                (matrices if wide else others).append(parameter)
        groups = [
            {"params": matrices, "orthogonal": True},
            {"params": others, "orthogonal": False},
        ]
        super().__init__([g for g in groups if g["params"]], {"lr": rate, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["momentum"] = torch.zeros_like(parameter)
                    if not group["orthogonal"]:
                        state["square"] = torch.zeros_like(parameter)
                state["step"] += 1
                momentum, gradient = state["momentum"], parameter.grad
                parameter.mul_(1 - group["lr"] * group["decay"])
                if group["orthogonal"]:
                    momentum.lerp_(gradient, 0.05)
                    update = orthogonal(gradient.lerp(momentum, 0.95).flatten(1))
                    scale = 0.2 * max(update.shape) ** 0.5
                    parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)
                else:
                    count, square = state["step"], state["square"]
                    momentum.lerp_(gradient, 0.1)
                    square.lerp_(gradient.square(), 0.01)
                    size = (square / (1 - 0.99**count)).sqrt_().add_(1e-8)
                    parameter.addcdiv_(momentum, size, value=-group["lr"] / (1 - 0.9**count))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return roughly the nearest matrix with orthonormal rows or columns (Newton-Schulz).

    Every step multiplies by a polynomial of the small Gram matrix, so the polynomials are
    multiplied there, and the long side takes part in two products only.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    whole = None
    for _ in range(4):
        factor = -4.7750 * gram + 2.0315 * gram @ gram
        factor.diagonal().add_(3.4445)
        gram = factor @ gram @ factor
        whole = factor if whole is None else factor @ whole
    x = whole @ x
    return x.T if tall else x


class MovingAverage:
    """The exponential moving average of a module's weights, for sampling."""

    def __init__(self, module: nn.Module, keep: float) -> None:
        self._keep = keep
        self._count = 0
        self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Update the average with the module's weights."""
        self._count += 1
        share = 1 - min(self._keep, (1 + self._count) / (10 + self._count))
        now = module.state_dict()
        torch._foreach_lerp_(list(self.weights.values()), [now[n] for n in self.weights], share)

    def restore(self, weights: dict[str, torch.Tensor], count: int) -> None:
        """Restore saved averages after `count` updates."""
        self._count = count
        for name, value in weights.items():
            self.weights[name].copy_(value)


def save(path: Path, state: dict) -> None:
    """Write a checkpoint atomically."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def to_half(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights in half precision, for a small checkpoint."""
    return {name: value.half() for name, value in weights.items()}


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Budget:
    """The processor time that a training may use, over all its runs."""

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        self._seconds = minutes * 60
        self._spent = spent
        self._start = time.process_time()

    @property
    def spent(self) -> float:
        """Seconds used so far."""
        return self._spent + time.process_time() - self._start

    @property
    def share(self) -> float:
        """How much of the budget is used, from 0 to 1."""
        return min(1.0, self.spent / self._seconds)


def count(parameters: Iterable[torch.Tensor]) -> float:
    """Return the number of parameters in millions."""
    return sum(parameter.numel() for parameter in parameters) / 1e6
