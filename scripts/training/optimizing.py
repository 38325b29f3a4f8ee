"""Shared by all stages: optimizer, autocast, moving average of weights, checkpoint file, budget."""

from __future__ import annotations

import contextlib
import functools
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import nn

BEGUN = time.monotonic()


def autocast(device: torch.device) -> torch.autocast:
    """Return the context in which networks compute, in bfloat16 where that is fast."""
    fast = device.type == "cuda" or (torch.backends.mkldnn.is_available() and _has_matrix_units())
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


@functools.cache
def _has_matrix_units() -> bool:
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(unit in flags.read_text() for unit in ("amx_bf16", "avx512_bf16"))


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix updates are orthogonalised; AdamW for vectors and odd layers.

    From K. Jordan, "Muon" (2024), with the step scaled to AdamW's as in "Muon is scalable for
    LLM training" (arXiv 2502.16982). On these networks it needs about half of AdamW's steps.
    """

    def __init__(self, module: nn.Module, rate: float, decay: float = 0.01) -> None:
        matrices, others = [], []
        tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
        for parameter in module.parameters():
            if parameter.requires_grad:
                wide = parameter.ndim >= 2 and min(parameter.flatten(1).shape) >= 16
                orthogonal = wide and id(parameter) not in tables
                (matrices if orthogonal else others).append(parameter)
        groups = [
            {"params": matrices, "orthogonal": True},
            {"params": others, "orthogonal": False},
        ]
        super().__init__([g for g in groups if g["params"]], {"lr": rate, "decay": decay})
        # Tensors on the device, so that a captured graph of kernels reads their present values.
        device = next(module.parameters()).device
        self._count = torch.zeros((), device=device)
        for group in self.param_groups:
            group["lr"] = torch.full((), rate, device=device)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move every parameter that has a gradient."""
        self._count += 1
        for group in self.param_groups:
            rate = group["lr"]
            parameters = [each for each in group["params"] if each.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                    if not group["orthogonal"]:
                        state["square"] = torch.zeros_like(parameter)
            gradients = [each.grad for each in parameters]
            momenta = [self.state[each]["momentum"] for each in parameters]
            torch._foreach_mul_(parameters, 1 - rate * group["decay"])
            if group["orthogonal"]:
                torch._foreach_lerp_(momenta, gradients, 0.05)
                self._move_matrices(rate, parameters, torch._foreach_lerp(gradients, momenta, 0.95))
            else:
                squares = [self.state[each]["square"] for each in parameters]
                torch._foreach_lerp_(momenta, gradients, 0.1)
                torch._foreach_mul_(squares, 0.99)
                torch._foreach_addcmul_(squares, gradients, gradients, 0.01)
                sizes = torch._foreach_div(squares, 1 - 0.99**self._count)
                torch._foreach_sqrt_(sizes)
                torch._foreach_add_(sizes, 1e-8)
                steps = torch._foreach_div(momenta, sizes)
                torch._foreach_mul_(steps, -rate / (1 - 0.9**self._count))
                torch._foreach_add_(parameters, steps)

    @staticmethod
    def _move_matrices(
        rate: torch.Tensor, parameters: list[torch.Tensor], updates: list[torch.Tensor]
    ) -> None:
        # Matrices of one shape are orthogonalised together: single ones are too small for a GPU.
        alike: dict[torch.Size, list[int]] = {}
        for place, update in enumerate(updates):
            alike.setdefault(update.flatten(1).shape, []).append(place)
        for shape, places in alike.items():
            found = orthogonal(torch.stack([updates[place].flatten(1) for place in places]))
            found = found * (-rate * 0.2 * max(shape) ** 0.5)
            moved = [parameters[place] for place in places]
            steps = [step.view_as(each) for step, each in zip(found, moved, strict=True)]
            torch._foreach_add_(moved, steps)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Return roughly the nearest matrices with orthonormal rows or columns (Newton-Schulz).

    Every step multiplies by a polynomial of the small Gram matrix, so the polynomials are
    multiplied there, and the long side takes part in two products only.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram = x @ x.mT
    whole = None
    for _ in range(4):
        factor = -4.7750 * gram + 2.0315 * gram @ gram
        factor.diagonal(dim1=-2, dim2=-1).add_(3.4445)
        gram = factor @ gram @ factor
        whole = factor if whole is None else factor @ whole
    x = whole @ x
    return x.mT if tall else x


class MovingAverage:
    """The exponential moving average of a module's weights, for sampling."""

    def __init__(self, module: nn.Module, keep: float) -> None:
        self._keep = keep
        self._count = torch.zeros((), device=next(module.parameters()).device)
        self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Update the average with the module's weights."""
        self._count += 1
        share = 1 - ((1 + self._count) / (10 + self._count)).clamp(max=self._keep)
        now, averages = module.state_dict(), list(self.weights.values())
        moves = torch._foreach_sub([now[name] for name in self.weights], averages)
        torch._foreach_mul_(moves, share)
        torch._foreach_add_(averages, moves)

    @contextlib.contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Give the module the averaged weights for a while."""
        trained = {name: value.clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.weights)
        try:
            yield
        finally:
            module.load_state_dict(trained)


Values = dict[str, torch.Tensor]


class Graphed:
    """Work on tensors of fixed shapes, captured as a CUDA graph at its first call and replayed.

    What it returns is overwritten by the next call. If it cannot be captured, it runs as it is.
    """

    def __init__(self, work: Callable[[Values], tuple[torch.Tensor, ...]]) -> None:
        self._work = work
        self._graph: torch.cuda.CUDAGraph | None = None
        self._failed = False
        self._inputs: Values = {}
        self._outputs: tuple[torch.Tensor, ...] = ()

    def __call__(self, values: Values) -> tuple[torch.Tensor, ...]:
        """Do the work with these values."""
        if self._failed:
            return self._work(values)
        if self._graph is None:
            try:
                return self._capture(values)
            except RuntimeError:
                traceback.print_exc()
                self._failed = True
                torch.cuda.synchronize()
                return self._work(values)
        for name, value in self._inputs.items():
            value.copy_(values[name])
        self._graph.replay()
        return self._outputs

    def _capture(self, values: Values) -> tuple[torch.Tensor, ...]:
        self._inputs = {name: value.clone() for name, value in values.items()}
        # The first run fills the libraries' caches, which must not happen while it is captured.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            first = tuple(each.clone() for each in self._work(self._inputs))
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        begun = time.monotonic()
        # Another thread copies pictures to the device meanwhile.
        with torch.cuda.graph(graph, pool=_POOL.handle(), capture_error_mode="thread_local"):
            self._outputs = self._work(self._inputs)
        self._graph = graph
        print(f"captured a graph in {time.monotonic() - begun:.1f} s", flush=True)
        return first


class _Pool:
    """The memory that all graphs share, since only one runs at a time."""

    def __init__(self) -> None:
        self._handle: tuple[int, int] | None = None

    def handle(self) -> tuple[int, int]:
        if self._handle is None:
            self._handle = torch.cuda.graph_pool_handle()
        return self._handle


_POOL = _Pool()


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


class Budget:
    """The seconds that a training may use, from now on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = max(seconds, 1e-3)
        self._start = time.monotonic()

    @property
    def share(self) -> float:
        """How much of the budget is used, from 0 to 1."""
        return min(1.0, (time.monotonic() - self._start) / self.seconds)


class Report:
    """Prints the means of what a training measures, and its throughput, every few seconds.

    Measures are added as tensors and read only when printed, because reading waits for the device.
    """

    def __init__(self, stage: str, seconds: float = 5.0) -> None:
        self._stage, self._seconds = stage, seconds
        self._start = self._last = time.monotonic()
        self._seen = self._seen_before = self._steps = 0
        self._sums: dict[str, torch.Tensor] = {}
        self._added = 0

    @property
    def seen(self) -> int:
        """How many samples were added."""
        return self._seen

    @property
    def steps(self) -> int:
        """How many steps were added."""
        return self._steps

    def add(self, samples: int, **measures: torch.Tensor) -> None:
        """Add a step's samples and measures."""
        self._seen += samples
        self._steps += 1
        self._added += 1
        for name, value in measures.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self.write()

    def write(self, force: bool = False) -> None:
        """Print, if it is time or forced."""
        now = time.monotonic()
        if not self._added or (now - self._last < self._seconds and not force):
            return
        means = " ".join(f"{n} {v.item() / self._added:.4f}" for n, v in self._sums.items())
        now = time.monotonic()
        speed = (self._seen - self._seen_before) / max(now - self._last, 1e-6)
        print(
            f"[{time.monotonic() - BEGUN:5.0f} s] {self._stage} step {self._steps} seen "
            f"{self._seen} ({speed:.0f}/s) {means}",
            flush=True,
        )
        self._last, self._seen_before, self._added, self._sums = now, self._seen, 0, {}


def count(parameters: Iterable[torch.Tensor]) -> float:
    """Return the number of parameters in millions."""
    return sum(parameter.numel() for parameter in parameters) / 1e6
