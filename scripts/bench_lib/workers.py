"""Pictures a second by one worker and by several, the two in turn, on a server of their own each.

The clock runs from when the first picture is begun until the last is done: no start, no loading.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from banatie.store.database import Database
from scripts.bench_lib.server import PROMPT, Line, Server, print_table, serving


def main(arguments: list[str]) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench workers", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pictures", type=int, default=40, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="banatie-small", help="the painting model")
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args(arguments)
    rates: dict[int, list[float]] = {1: [], options.workers: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for workers in rates:
                rate = _pictures_a_second(Path(folder, f"{number}-{workers}"), workers, options)
                rates[workers].append(rate)
    one, several = rates.values()
    ratio = statistics.median(b / a for a, b in zip(one, several, strict=True))
    figure = f"{ratio:.2f} ({statistics.median(several):.2f} / {statistics.median(one):.2f})"
    load = f"{os.getloadavg()[0]:.1f}"
    name = f"pictures a second: {options.workers} workers on {options.device} / one"
    print_table([Line(name, figure, ""), Line("load of the machine at the end", load, "")])


def _pictures_a_second(folder: Path, workers: int, options: argparse.Namespace) -> float:
    settings = [
        f"painting.model={options.model}",
        f"painting.devices={','.join([options.device] * workers)}",
        # As many for the one as for each of the others: what is compared is the workers.
        "painting.threads=1",
    ]
    with serving(folder, settings=settings, core=None) as server:
        _wait_for(server, workers)
        body = {"prompt": PROMPT, "autoEnhance": False, "steps": options.steps}
        for seed in range(options.pictures):
            server.call("POST", "/api/v1/generations", body | {"seed": seed})
        database = Database(folder / "banatie.db")
        sql = (
            "SELECT min(images.created_at - processing_time_ms), max(images.created_at), count(*) "
            "FROM images JOIN generations ON image_id = images.id"
        )
        while (figures := database.first(sql))[2] < options.pictures:
            time.sleep(0.2)
        database.close()
    begun, ended, pictures = figures
    return pictures / (ended - begun) * 1000


def _wait_for(server: Server, workers: int) -> None:
    ready = 0
    while ready < workers:
        time.sleep(0.2)
        told = server.call("GET", "/health")[1]["data"]["workers"]
        ready = sum(worker["state"] == "ready" for worker in told)
