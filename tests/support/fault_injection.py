"""Faults for a tested process: each function patches this process so that the fault happens.

Banatie's own code stays as it is; the functions through which it reaches models, files, the
database and the clock are patched to kill the process, raise or count. A fault with a
`counter_file` counts there how often it has struck, beyond the death of its process, and strikes
`times` times in all.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from transformers import LlamaForCausalLM

from banatie.enhancement.enhancer import Enhancer
from banatie.jobs import JobQueue
from banatie.painting.painter import Painter, PaintJob
from banatie.store import files
from banatie.store.claims import Claims
from banatie.worker import save

NEVER = -(10**9)


def die_while_enhancing(counter_file: str, times: int = 1, word: str = "") -> None:
    """Die while the language model generates, for prompts that contain `word`."""

    def enhance(
        original: Callable, enhancer: Enhancer, prompt: str, *rest: Any, **more: Any
    ) -> Any:
        if word in prompt:
            _patch(LlamaForCausalLM, "forward", _at_call(3, lambda: _die(counter_file, times)))
        return original(enhancer, prompt, *rest, **more)

    _patch(Enhancer, "enhance", enhance)


def die_at_step(counter_file: str, step: int, times: int = 1, word: str = "") -> None:
    """Die in this denoising step of a picture whose prompt contains `word`."""
    steps = 0

    def start(original: Callable, painter: Painter, jobs: Sequence[PaintJob], *rest: Any) -> Any:
        nonlocal steps
        steps = 0 if any(word in job.prompt for job in jobs) else NEVER
        return original(painter, jobs, *rest)

    def denoise(original: Callable, *arguments: Any, **more: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == step:
            _die(counter_file, times)
        return original(*arguments, **more)

    _patch(Painter, "paint_batch", start)
    _patch(UNet2DConditionModel, "forward", denoise)


def hang_at_step(step: int, word: str = "") -> None:
    """Never return from this denoising step of a picture whose prompt contains `word`."""
    steps = NEVER

    def start(original: Callable, painter: Painter, jobs: Sequence[PaintJob], *rest: Any) -> Any:
        nonlocal steps
        steps = 0 if any(word in job.prompt for job in jobs) else NEVER
        return original(painter, jobs, *rest)

    def denoise(original: Callable, *arguments: Any, **more: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == step:
            threading.Event().wait()
        return original(*arguments, **more)

    _patch(Painter, "paint_batch", start)
    _patch(UNet2DConditionModel, "forward", denoise)


def hang_while_saving(counter_file: str) -> None:
    """Never return from flushing the first picture's file, as a disk that is gone does not."""

    def fsync(original: Callable, descriptor: int) -> None:
        if _count(counter_file) == 1:
            threading.Event().wait()
        original(descriptor)

    _patch(os, "fsync", fsync)


def shorten(module: str, name: str, value: float) -> None:
    """Set a module's time limit."""
    setattr(importlib.import_module(module), name, value)


def die_before_notify(counter_file: str) -> None:
    """Die when a row waits for its next stage and the queue has not been notified."""

    def notify(original: Callable, queue: JobQueue, generation_id: str) -> None:
        # The worker also notifies without an id, for rows that it found itself.
        if generation_id:
            _die(counter_file, 1)
        original(queue, generation_id)

    _patch(JobQueue, "notify", notify)


def die_while_encoding(counter_file: str) -> None:
    """Die when the picture is painted and not yet encoded."""
    _patch(save, "encode", _before(lambda: _die(counter_file, 1)))


def die_before_rename(counter_file: str) -> None:
    """Die when the picture's file is written and not yet renamed to its final name."""

    def fsync(original: Callable, descriptor: int) -> None:
        original(descriptor)
        _die(counter_file, 1)

    _patch(os, "fsync", fsync)


def die_between_file_and_row(counter_file: str) -> None:
    """Die when the file has its final name and the transaction of its row is not committed."""
    _patch(files, "sync_folder", _before(lambda: _die(counter_file, 1)))


def die_before_success_row(counter_file: str) -> None:
    """Die when the file is complete and its row is not yet `success`."""
    _patch(Claims, "succeed", _before(lambda: _die(counter_file, 1)))


def die_after_success_row(counter_file: str) -> None:
    """Die right after the row has become `success`."""

    def succeed(original: Callable, *arguments: Any, **options: Any) -> bool:
        answer = original(*arguments, **options)
        _die(counter_file, 1)
        return answer

    _patch(Claims, "succeed", succeed)


def count_steps(counter_file: str) -> None:
    """Count the denoising steps of all pictures, one byte each."""
    _patch(UNet2DConditionModel, "forward", _before(lambda: _count(counter_file)))


def run_out_of_memory(wider_than: int) -> None:
    """Raise out-of-memory for latents with more columns than this."""

    def denoise(
        original: Callable, unet: Any, sample: torch.Tensor, *rest: Any, **more: Any
    ) -> Any:
        if sample.shape[-1] > wider_than:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 48.00 GiB.")
        return original(unet, sample, *rest, **more)

    _patch(UNet2DConditionModel, "forward", denoise)


def break_language_model(error: str, word: str = "") -> None:
    """Let the language model raise this error, for prompts that contain `word`."""
    errors = {each.__name__: each for each in (RuntimeError, MemoryError, IndexError)}

    def fail() -> None:
        raise errors[error]("the language model is broken")

    def enhance(
        original: Callable, enhancer: Enhancer, prompt: str, *rest: Any, **more: Any
    ) -> Any:
        if word not in prompt:
            return original(enhancer, prompt, *rest, **more)
        unpatched = LlamaForCausalLM.forward
        _patch(LlamaForCausalLM, "forward", _before(fail))
        try:
            return original(enhancer, prompt, *rest, **more)
        finally:
            LlamaForCausalLM.forward = unpatched

    _patch(Enhancer, "enhance", enhance)


def slow_language_model(seconds: float, word: str = "") -> None:
    """Let the language model take so long for each token, for prompts that contain `word`."""
    slow = False

    def enhance(
        original: Callable, enhancer: Enhancer, prompt: str, *rest: Any, **more: Any
    ) -> Any:
        nonlocal slow
        slow = word in prompt
        return original(enhancer, prompt, *rest, **more)

    _patch(Enhancer, "enhance", enhance)
    _patch(LlamaForCausalLM, "forward", _before(lambda: time.sleep(seconds if slow else 0)))


def die_at_change(folder: str, number: int, events: list[str]) -> None:
    """Die before this one of the changes that the process makes below the folder.

    A change is an audit event (https://docs.python.org/3/library/audit_events.html) of `events`.
    """
    changes = 0

    def on_event(event: str, arguments: tuple) -> None:
        nonlocal changes
        if event not in events:
            return
        if event == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
        path = str(arguments[0])
        # A name without a path is one in a folder that is being removed.
        changes += path.startswith(folder) or "/" not in path
        if changes == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(on_event)


def follow_clock(file: str) -> None:
    """Shift the wall clock by as many milliseconds as the file says."""
    _patch(time, "time_ns", lambda original: original() + int(Path(file).read_text()) * 1_000_000)
    _patch(time, "time", lambda original: original() + int(Path(file).read_text()) / 1000)


def fill_disk(while_exists: str) -> None:
    """Report a full disk when a picture is flushed, while this file exists."""

    def fail() -> None:
        if Path(while_exists).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _patch(os, "fsync", _before(fail))


def _patch(owner: Any, name: str, replacement: Callable) -> None:
    """Replace an attribute by `replacement`, which gets the original as its first argument."""
    original = getattr(owner, name)

    @wraps(original)
    def patched(*arguments: Any, **more: Any) -> Any:
        return replacement(original, *arguments, **more)

    setattr(owner, name, patched)


def _before(action: Callable[[], object]) -> Callable:
    """A replacement that calls `action` before the original."""

    def replacement(original: Callable, *arguments: Any, **more: Any) -> Any:
        action()
        return original(*arguments, **more)

    return replacement


def _at_call(number: int, action: Callable[[], object]) -> Callable:
    """A replacement that calls `action` before this one of the calls."""
    calls = 0

    def replacement(original: Callable, *arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            action()
        return original(*arguments, **more)

    return replacement


def _die(counter_file: str, times: int) -> None:
    if _count(counter_file) <= times:
        os.kill(os.getpid(), signal.SIGKILL)


def _count(counter_file: str) -> int:
    """Count one more in the file; the new count."""
    # Appended and not rewritten: what was counted before a kill must still count after it.
    descriptor = os.open(counter_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, b".")
    count = os.fstat(descriptor).st_size
    os.close(descriptor)
    return count
