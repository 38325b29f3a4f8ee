"""Where things are computed: the device, the number format, the number of threads.

Chosen once, from what is there, and handed to the enhancer and the painter; and what the device's
memory has to say. Knows no model.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch

from banatie.errors import ConfigError

# Allocators say it in a plain RuntimeError: torch's on the CPU, cuBLAS and cuDNN on their own.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|_ALLOC_FAILED", re.IGNORECASE
)


@dataclass(frozen=True)
class Runtime:
    """The device and the number formats that fit it."""

    device: str
    dtype: torch.dtype
    """For the painter and, but on a CPU, for the language model."""
    language_dtype: torch.dtype


def present_devices() -> tuple[str, ...]:
    """What there is to compute on: every CUDA device, else MPS, else the CPU."""
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if cards > 1:
        return tuple(f"cuda:{number}" for number in range(cards))
    if cards:
        return ("cuda",)
    return ("mps",) if torch.backends.mps.is_available() else ("cpu",)


def choose_runtime(device: str = "auto", threads: int = 0, sharing: int = 1) -> Runtime:
    """The runtime for `device` (auto, cuda, cuda:1, mps, cpu); 0 threads leave torch's own number.

    So many processes are `sharing` a CPU: each takes its part of that number. CUDA takes bfloat16
    where the card computes in it (Ampere and later), else float16; MPS float16; a CPU paints in
    float32 and writes in what `fastest_cpu_dtype` says. Raises ConfigError when nothing can be
    computed there.
    """
    if threads or sharing > 1:
        torch.set_num_threads(threads or max(1, torch.get_num_threads() // sharing))
    if device == "auto":
        device = present_devices()[0]
    try:
        if device.startswith("cuda"):
            # It says why there is none.
            torch.cuda.init()
        if device.startswith("cuda:"):
            # Before anything is computed: it would take memory on the first card, too.
            torch.cuda.set_device(device)
        runtime = Runtime(device, *_dtypes(device))
        torch.zeros(1, device=device, dtype=runtime.dtype).add_(1).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"painting.devices: {device!r} cannot be used: {reason}") from error
    return runtime


def _dtypes(device: str) -> tuple[torch.dtype, torch.dtype]:
    if device.startswith("cuda"):
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return dtype, dtype
    if device == "mps":
        return torch.float16, torch.float16
    return torch.float32, fastest_cpu_dtype(torch.cpu.get_capabilities())


def device_memory(device: str) -> tuple[int, int] | None:
    """The bytes in use, by anybody, and the bytes there are on a GPU; None elsewhere."""
    if not device.startswith("cuda"):
        return None
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError:
        # A driver in trouble; whoever computes on it will hear of it.
        return None
    return total - free, total


def memory_for_models(device: str) -> int:
    """The bytes that models may take on the device, as things are now."""
    if used_and_total := device_memory(device):
        used, total = used_and_total
        return total - used
    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return psutil.virtual_memory().available


def free_memory(device: str) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory did not suffice, whoever says so."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def fastest_cpu_dtype(capabilities: Mapping[str, object]) -> torch.dtype:
    """bfloat16, half of what the memory has to bring, where the processor computes in it.

    Elsewhere torch imitates it: on AVX2 reading a prompt took four times as long as in float32, and
    a step of eight rows twice as long (measured on an AMD EPYC, one thread).
    """
    computes = any(capabilities.get(unit) for unit in ("amx_bf16", "avx512_bf16", "bf16"))
    return torch.bfloat16 if computes else torch.float32
