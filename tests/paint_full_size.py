"""Load a painting model as the worker does, paint one step, and say as JSON what that took.

A process of its own, so that its peak memory is the model's and nobody else's.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import psutil

from banatie.inference.catalog import Catalog
from banatie.inference.painter import PaintJob
from banatie.inference.plan import Wanted
from banatie.inference.residency import Residency
from banatie.inference.runtime import choose_runtime
from banatie.worker import stay_offline


def main(folder: Path) -> None:
    """Do it, with the model in this folder."""
    stay_offline()
    model = Catalog(folder.parent).painting_model(folder.name)
    started = time.monotonic()
    residency = Residency.load(model, None, choose_runtime("cpu"), Wanted())
    loaded = time.monotonic()
    width, height = model.sizes["1:1"]
    job = PaintJob("a red fox in the snow", "", width, height, 1, 5.0, 1)
    resident, peaks = psutil.Process().memory_info().rss, [peak()]
    steps: list[float] = []

    def look(*_: int) -> None:
        steps.append(time.monotonic())
        peaks.append(peak())

    with residency.painting():
        picture = residency.painter.paint(job, look)
    unet = residency.painter._pipeline.unet
    told = {
        "plan": str(residency.plan),
        "why": residency.plan.why,
        "planned": residency.plan.needed,
        "format": str(unet.dtype),
        "parameters": sum(weight.numel() for weight in unet.parameters()),
        "size": picture.size,
        "load_seconds": round(loaded - started, 1),
        "step_seconds": round(steps[0] - loaded, 1),
        "decode_seconds": round(time.monotonic() - steps[0], 1),
        "loaded": resident,
        "peaks": [*peaks, peak()],
    }
    print(json.dumps(told))


def peak() -> int:
    """The most memory of this process so far, in bytes."""
    # Linux counts in kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]))
