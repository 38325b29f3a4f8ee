"""The bench of painting: what each way to lay a model out, and each switch, costs or brings.

All in one run on one model, each beside the plain way, which is measured again before every line,
since a machine's speed changes. Nothing is decided here: `inference.plan` does that.
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
    parser.add_argument("--steps", type=int, help="default: the model's")
    parser.add_argument("--batches", default="2,4,8")
    parser.add_argument("--compile", action="store_true", help="also with the UNet compiled")
    options = parser.parse_args(argv)

    bench = Bench(options)
    steps, (width, height) = bench.job.steps, (bench.job.width, bench.job.height)
    print(
        f"{options.model} on {bench.runtime.device}, {bench.runtime.dtype}, {width}×{height}, "
        f"{steps} steps, load average {os.getloadavg()[0]:.1f}\n"
    )
    print("| what | seconds a picture | the plain way's beside it | ratio | peak memory |")
    print("|---|---|---|---|---|")
    for name, seconds, beside, peak in bench.lines():
        memory = f"{peak / 1e9:.1f} GB" if peak else ""
        print(f"| {name} | {seconds:.3f} | {beside:.3f} | {seconds / beside:.2f} | {memory} |")


class Bench:
    """A model, loaded the plain way and, for a line each, another."""

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
        """What was measured, its seconds a picture, the plain way's, the device's peak in bytes."""
        started = time.perf_counter()
        plain = self._load(Plan())
        loaded = time.perf_counter() - started
        first = self._once(plain)
        yield "loading and the first picture", loaded + first, *self._beside(plain, plain)[1:]
        yield "the plain way itself", *self._beside(plain, plain)
        yield "a new prompt each time", *self._beside(plain, plain, new_prompts=True)
        yield "a preview at each step", *self._beside(plain, plain, look=plain.previews)
        for count in map(int, filter(None, self._options.batches.split(","))):
            yield f"{count} at once", *self._beside(plain, plain, count)
        plans = [Plan(tiled=True)]
        if self._is_cuda:
            places = ("offload-encoders", "offload-layers", "offload-layers-fp8")
            plans += [Plan(place, tiled=True) for place in places]
        for plan in plans:
            other = self._load(plan)
            self._once(other)
            name = str(plan).replace(", the language model beside it", "")
            yield name, *self._beside(plain, other)
        if self._options.compile:
            other = self._load(Plan(), compiled=True)
            first = self._once(other)
            line = self._beside(plain, other)
            yield "compiled: the first picture", first, *line[1:]
            yield "compiled", *line

    def _load(self, plan: Plan, compiled: bool = False) -> Painter:
        free_memory(self.runtime.device)
        return Painter.load(self._model, self.runtime, plan, compiled)

    def _beside(
        self,
        plain: Painter,
        other: Painter,
        count: int = 1,
        *,
        new_prompts: bool = False,
        look: Callable[[], object] | None = None,
    ) -> tuple[float, float, int]:
        """The median seconds a picture of the other way and of the plain one, taken in turn."""
        theirs, ours, peak = [], [], 0
        for number in range(self._options.rounds):
            ours.append(self._once(plain))
            if self._is_cuda:
                torch.cuda.reset_peak_memory_stats()
            prompt = f"{PROMPT}, number {number} of {id(theirs)}" if new_prompts else PROMPT
            theirs.append(self._once(other, count, prompt, look))
            if self._is_cuda:
                peak = max(peak, torch.cuda.max_memory_allocated())
        return statistics.median(theirs), statistics.median(ours), peak

    def _once(
        self,
        painter: Painter,
        count: int = 1,
        prompt: str = PROMPT,
        look: Callable[[], object] | None = None,
    ) -> float:
        """The seconds for one of `count` pictures that are painted at once."""
        job = dataclasses.replace(self.job, prompt=prompt)
        jobs = [dataclasses.replace(job, seed=seed) for seed in range(count)]
        started = time.perf_counter()
        painter.paint_batch(jobs, lambda *_: look and look())
        return (time.perf_counter() - started) / count
