"""Where models compute: the device, the number formats, the number of threads.

Chosen once and passed to the enhancer and the painter. Also reads and frees the device's memory.
Knows no model.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from banatie.devices.host_limits import limited_threads, memory_available
from banatie.errors import ConfigError

# Some raise a plain RuntimeError: torch's allocator on the CPU, cuBLAS and cuDNN.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|_ALLOC_FAILED", re.IGNORECASE
)


@dataclass(frozen=True)
class Runtime:
    """The device and the number formats that fit it."""

    device: str
    dtype: torch.dtype
    """Of the painting model."""
    language_dtype: torch.dtype


def present_devices() -> tuple[str, ...]:
    """The devices of this machine: every CUDA device, else MPS, else the CPU."""
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if cards > 1:
        return tuple(f"cuda:{number}" for number in range(cards))
    if cards:
        return ("cuda",)
    return ("mps",) if torch.backends.mps.is_available() else ("cpu",)


def choose_runtime(device: str = "auto", threads: int = 0, sharing: int = 1) -> Runtime:
    """The runtime for `device` (auto, cuda, cuda:1, mps, cpu).

    0 threads are torch's own number, or fewer where a container's limit allows fewer.
    `sharing` is how many processes share a CPU: each takes its part of that number. CUDA uses
    bfloat16 where the card supports it (Ampere and later), else float16; MPS float16; a CPU float32
    for the painting model and `fastest_cpu_dtype` for the language model. Raises ConfigError when
    the device cannot be used.
    """
    own = torch.get_num_threads()
    chosen = threads or max(1, limited_threads(own) // sharing)
    if chosen != own:
        torch.set_num_threads(chosen)
    if device == "auto":
        device = present_devices()[0]
    try:
        if device.startswith("cuda"):
            # Its error says why there is no device.
            torch.cuda.init()
        if device.startswith("cuda:"):
            # Before the first computation, which would take memory on the first card, too.
            torch.cuda.set_device(device)
        runtime = Runtime(device, *_dtypes(device))
        torch.zeros(1, device=device, dtype=runtime.dtype).add_(1).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"painting.devices: {device!r} cannot be used: {reason}") from error
    return runtime


def _dtypes(device: str) -> tuple[torch.dtype, torch.dtype]:
    if device.startswith("cuda"):
        # Cards before Ampere emulate bfloat16, slowly.
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if has_bfloat16 else torch.float16
        return dtype, dtype
    if device == "mps":
        return torch.float16, torch.float16
    return torch.float32, fastest_cpu_dtype(torch.cpu.get_capabilities())


def device_memory(device: str) -> tuple[int, int] | None:
    """A GPU's bytes in use by all processes, and its total bytes; None on other devices."""
    if not device.startswith("cuda"):
        return None
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError:
        # The driver has failed; the next computation raises an error that says so.
        return None
    return total - free, total


def memory_for_models(device: str) -> int:
    """The bytes that are free for models on the device."""
    if used_and_total := device_memory(device):
        used, total = used_and_total
        return total - used
    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return memory_available()


def free_memory(device: str) -> None:
    """Return memory that nothing refers to any more to the device."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, from whichever allocator, means that memory did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def fastest_cpu_dtype(capabilities: Mapping[str, object]) -> torch.dtype:
    """bfloat16 where the processor computes in it, which halves the memory traffic; else float32.

    Elsewhere torch emulates it: on AVX2 reading a prompt took four times as long as in float32, and
    a step of eight rows twice as long (measured on an AMD EPYC, one thread).
    """
    computes = any(capabilities.get(unit) for unit in ("amx_bf16", "avx512_bf16", "bf16"))
    return torch.bfloat16 if computes else torch.float32
