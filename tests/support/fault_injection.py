"""What can befall a worker: each function changes this process so that it happens.

The worker's own code stays as it is; what is wrapped are the doors through which the world comes
in, and there the wrapper dies, fails or counts. A wound with a `tally` counts its strikes in that
file and heals after `times` of them, over the deaths of its worker.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
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
from banatie.store.claims import Claims
from banatie.worker import save

ALWAYS = 10**9


def die_while_enhancing(tally: str, times: int = 1, word: str = "") -> None:
    """Die in the middle of what the language model writes, on prompts that hold `word`."""

    def strike(original: Callable, enhancer: Enhancer, prompt: str, *rest: Any, **more: Any) -> Any:
        if word in prompt:
            _wrap(LlamaForCausalLM, "forward", _at_call(3, lambda: _die(tally, times)))
        return original(enhancer, prompt, *rest, **more)

    _wrap(Enhancer, "enhance", strike)


def die_at_step(tally: str, step: int, times: int = 1, word: str = "") -> None:
    """Die in this denoising step of a picture whose prompt holds `word`."""
    steps = 0

    def begin(original: Callable, painter: Painter, jobs: Sequence[PaintJob], *rest: Any) -> Any:
        nonlocal steps
        steps = 0 if any(word in job.prompt for job in jobs) else -ALWAYS
        return original(painter, jobs, *rest)

    def count(original: Callable, *arguments: Any, **more: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == step:
            _die(tally, times)
        return original(*arguments, **more)

    _wrap(Painter, "paint_batch", begin)
    _wrap(UNet2DConditionModel, "forward", count)


def die_before_the_bell(tally: str) -> None:
    """Die when a row waits for what comes next and nobody was told."""

    def strike(original: Callable, queue: JobQueue, generation_id: str) -> None:
        # The worker also rings for rows that it finds, without naming one.
        if generation_id:
            _die(tally, 1)
        original(queue, generation_id)

    _wrap(JobQueue, "notify", strike)


def die_while_encoding(tally: str) -> None:
    """Die when the picture is painted and not yet encoded."""
    _wrap(save, "encode_png", _before(lambda: _die(tally, 1)))


def die_in_the_file(tally: str) -> None:
    """Die when the picture is written but not yet under its name."""

    def strike(original: Callable, descriptor: int) -> None:
        original(descriptor)
        _die(tally, 1)

    _wrap(os, "fsync", strike)


def die_before_the_row(tally: str) -> None:
    """Die when the file is there and its row not yet."""
    _wrap(Claims, "succeed", _before(lambda: _die(tally, 1)))


def die_after_the_row(tally: str) -> None:
    """Die when both are there."""

    def strike(original: Callable, *arguments: Any) -> bool:
        answer = original(*arguments)
        _die(tally, 1)
        return answer

    _wrap(Claims, "succeed", strike)


def count_steps(tally: str) -> None:
    """Count the denoising steps of all pictures, a byte for each."""
    _wrap(UNet2DConditionModel, "forward", _before(lambda: _strike(tally)))


def run_out_of_memory(wider_than: int) -> None:
    """Have too little memory for latents of more columns than this."""

    def strike(original: Callable, unet: Any, sample: torch.Tensor, *rest: Any, **more: Any) -> Any:
        if sample.shape[-1] > wider_than:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 48.00 GiB.")
        return original(unet, sample, *rest, **more)

    _wrap(UNet2DConditionModel, "forward", strike)


def break_language_model(error: str, word: str = "") -> None:
    """Let the language model raise, on prompts that hold `word`."""

    def fail() -> None:
        raise {"RuntimeError": RuntimeError, "MemoryError": MemoryError, "IndexError": IndexError}[
            error
        ]("the language model is broken")

    def strike(original: Callable, enhancer: Enhancer, prompt: str, *rest: Any, **more: Any) -> Any:
        if word not in prompt:
            return original(enhancer, prompt, *rest, **more)
        healthy = LlamaForCausalLM.forward
        _wrap(LlamaForCausalLM, "forward", _before(fail))
        try:
            return original(enhancer, prompt, *rest, **more)
        finally:
            LlamaForCausalLM.forward = healthy

    _wrap(Enhancer, "enhance", strike)


def slow_language_model(seconds: float, word: str = "") -> None:
    """Let the language model take so long for each word, on prompts that hold `word`."""
    slow = False

    def look(original: Callable, enhancer: Enhancer, prompt: str, *rest: Any, **more: Any) -> Any:
        nonlocal slow
        slow = word in prompt
        return original(enhancer, prompt, *rest, **more)

    _wrap(Enhancer, "enhance", look)
    _wrap(LlamaForCausalLM, "forward", _before(lambda: time.sleep(seconds if slow else 0)))


def die_at_change(folder: str, number: int, events: list[str]) -> None:
    """Die before this one of the changes that the process makes below the folder.

    A change is an audit event (https://docs.python.org/3/library/audit_events.html) of `events`.
    """
    changes = 0

    def hear(event: str, arguments: tuple) -> None:
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

    sys.addaudithook(hear)


def follow_clock(file: str) -> None:
    """Have a clock that is wrong by as many milliseconds as the file says."""
    _wrap(time, "time_ns", lambda original: original() + int(Path(file).read_text()) * 1_000_000)
    _wrap(time, "time", lambda original: original() + int(Path(file).read_text()) / 1000)


def fill_disk(while_there: str) -> None:
    """Have no room for pictures while this file is there."""

    def strike() -> None:
        if Path(while_there).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _wrap(os, "fsync", _before(strike))


def _wrap(owner: Any, name: str, around: Callable) -> None:
    original = getattr(owner, name)

    @wraps(original)
    def wrapper(*arguments: Any, **more: Any) -> Any:
        return around(original, *arguments, **more)

    setattr(owner, name, wrapper)


def _before(strike: Callable[[], None]) -> Callable:
    def around(original: Callable, *arguments: Any, **more: Any) -> Any:
        strike()
        return original(*arguments, **more)

    return around


def _at_call(number: int, strike: Callable[[], None]) -> Callable:
    calls = 0

    def around(original: Callable, *arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            strike()
        return original(*arguments, **more)

    return around


def _die(tally: str, times: int) -> None:
    if _strike(tally) <= times:
        os.kill(os.getpid(), signal.SIGKILL)


def _strike(tally: str) -> int:
    """Count one more; how many there are."""
    # Appended and not rewritten: what was counted before a kill must count after it.
    descriptor = os.open(tally, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, b".")
    strikes = os.fstat(descriptor).st_size
    os.close(descriptor)
    return strikes
