"""Load a painting model as the worker does, paint one step, and print the costs as JSON.

A process of its own, so that its peak memory is the model's alone.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from banatie.devices.memory_plan import PlacementPreferences
from banatie.devices.runtime import choose_runtime
from banatie.models.catalog import Catalog
from banatie.offline import stay_offline
from banatie.painting.painter import PaintJob
from banatie.worker.placement import ModelPlacement


def main(folder: Path) -> None:
    """Measure the model in this folder."""
    stay_offline()
    model = Catalog(folder.parent).painting_model(folder.name)
    started = time.monotonic()
    placement = ModelPlacement.load(model, None, choose_runtime("cpu"), PlacementPreferences())
    loaded = time.monotonic()
    width, height = model.sizes["1:1"]
    job = PaintJob("a red fox in the snow", "", width, height, 1, 5.0, 1)
    with measured() as memory:
        steps: list[float] = []
        with placement.painting():
            picture = placement.painter.paint(job, lambda *_: steps.append(time.monotonic()))
    ended = time.monotonic()
    unet = placement.painter._pipeline.unet
    report = {
        "plan": str(placement.plan),
        "why": placement.plan.why,
        "planned": placement.plan.needed,
        "format": str(unet.dtype),
        "parameters": sum(weight.numel() for weight in unet.parameters()),
        "size": picture.size,
        "load_seconds": round(loaded - started, 1),
        "step_seconds": round(steps[0] - loaded, 1),
        "decode_seconds": round(ended - steps[0], 1),
        "loaded": memory[0],
        "peak": max(memory),
    }
    print(json.dumps(report))


@contextmanager
def measured() -> Iterator[list[int]]:
    """Sample this process's memory: its own bytes, without mapped files."""
    process, samples, over = psutil.Process(), [], threading.Event()

    def sample() -> None:
        while True:
            memory = process.memory_info()
            samples.append(memory.rss - getattr(memory, "shared", 0))
            if over.wait(0.05):
                return

    sampler = threading.Thread(target=sample)
    sampler.start()
    yield samples
    over.set()
    sampler.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
