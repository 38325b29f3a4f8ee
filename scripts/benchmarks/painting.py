"""Painting: the cost of each memory plan, of batches, previews and compilation.

All in one run with one model. The default is measured again for every line, because a machine's
speed changes. Which plan is used, `devices.memory_plan` decides.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from banatie.devices.memory_plan import Plan
from banatie.devices.runtime import choose_runtime, free_memory
from banatie.models.catalog import Catalog
from banatie.painting.painter import Painter, PaintJob

PROMPT = "a red sports car on a mountain road"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="bench paint", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="banatie-small", help="catalog name or folder")
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    parser.add_argument("--steps", type=int, help="by default the model's")
    parser.add_argument("--batches", default="2,4,8")
    parser.add_argument("--compile", action="store_true", help="also with a compiled UNet")
    options = parser.parse_args(argv)

    bench = Bench(options)
    steps, (width, height) = bench.job.steps, (bench.job.width, bench.job.height)
    print(
        f"{options.model} on {bench.runtime.device}, {bench.runtime.dtype}, {width}×{height}, "
        f"{steps} steps, load average {os.getloadavg()[0]:.1f}\n"
    )
    print("| what | seconds per picture | the default's | ratio | peak memory |")
    print("|---|---|---|---|---|")
    for name, seconds, default, peak in bench.lines():
        memory = f"{peak / 1e9:.1f} GB" if peak else ""
        print(f"| {name} | {seconds:.3f} | {default:.3f} | {seconds / default:.2f} | {memory} |")


class Bench:
    """A model, loaded as by default and, for some lines, with another plan."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.runtime = choose_runtime(options.device, options.threads)
        self._options = options
        self._model = Catalog(options.models_dir).painting_model(options.model)
        width, height = self._model.sizes["1:1"]
        steps = options.steps or self._model.steps
        guidance = self._model.guidance_scale
        self.job = PaintJob(PROMPT, "", width, height, steps, guidance, seed=1)
        self._is_cuda = self.runtime.device.startswith("cuda")

    def lines(self) -> Iterator[tuple[str, float, float, int]]:
        """What was measured, its seconds per picture, the default's, the device's peak in bytes."""
        started = time.perf_counter()
        default = self._load(Plan())
        loaded = time.perf_counter() - started
        first = self._once(default)
        yield "loading and the first picture", loaded + first, *self._compare(default, default)[1:]
        yield "the default itself", *self._compare(default, default)
        yield "a new prompt each time", *self._compare(default, default, new_prompts=True)
        yield "a preview at each step", *self._compare(default, default, on_step=default.previews)
        for count in map(int, filter(None, self._options.batches.split(","))):
            yield f"a batch of {count}", *self._compare(default, default, count)
        plans = [Plan(tiled=True)]
        if self._is_cuda:
            places = ("offload-encoders", "offload-layers", "offload-layers-fp8")
            plans += [Plan(place, tiled=True) for place in places]
        for plan in plans:
            other = self._load(plan)
            self._once(other)
            name = str(plan).replace(", the language model beside it", "")
            yield name, *self._compare(default, other)
        if self._options.compile:
            other = self._load(Plan(), compiled=True)
            first = self._once(other)
            line = self._compare(default, other)
            yield "compiled: the first picture", first, *line[1:]
            yield "compiled", *line

    def _load(self, plan: Plan, compiled: bool = False) -> Painter:
        free_memory(self.runtime.device)
        return Painter.load(self._model, self.runtime, plan, compiled)

    def _compare(
        self,
        default: Painter,
        other: Painter,
        count: int = 1,
        *,
        new_prompts: bool = False,
        on_step: Callable[[], object] | None = None,
    ) -> tuple[float, float, int]:
        """The median seconds per picture of the other painter and of the default, in turn."""
        theirs, ours, peak = [], [], 0
        for number in range(self._options.rounds):
            ours.append(self._once(default))
            if self._is_cuda:
                torch.cuda.reset_peak_memory_stats()
            prompt = f"{PROMPT}, number {number} of {id(theirs)}" if new_prompts else PROMPT
            theirs.append(self._once(other, count, prompt, on_step))
            if self._is_cuda:
                peak = max(peak, torch.cuda.max_memory_allocated())
        return statistics.median(theirs), statistics.median(ours), peak

    def _once(
        self,
        painter: Painter,
        count: int = 1,
        prompt: str = PROMPT,
        on_step: Callable[[], object] | None = None,
    ) -> float:
        """The seconds per picture of a batch of `count`."""
        job = dataclasses.replace(self.job, prompt=prompt)
        jobs = [dataclasses.replace(job, seed=seed) for seed in range(count)]
        started = time.perf_counter()
        painter.paint_batch(jobs, lambda *_: on_step and on_step())
        return (time.perf_counter() - started) / count
