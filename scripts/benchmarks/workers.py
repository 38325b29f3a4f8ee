"""Pictures per second by one worker and by several, in turn, each on a server of its own.

The time is from the start of the first picture to the end of the last, without start-up and
loading. On a machine with other load, the processor time per picture is the better measure.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from banatie.store.database import Database
from scripts.benchmarks.server import PROMPT, Line, Server, print_table, serving


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
    processor_seconds: dict[int, list[float]] = {1: [], options.workers: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for workers in rates:
                measured = _measure(Path(folder, f"{number}-{workers}"), workers, options)
                rates[workers].append(measured[0])
                processor_seconds[workers].append(measured[1])
                print(f"  {workers}: {measured[0]:.2f}/s, {measured[1]:.3f} s", file=sys.stderr)
    compared = f"{options.workers} workers on {options.device} / one"
    print_table(
        [
            Line(f"pictures per second: {compared}", _ratio(rates), ""),
            Line(f"processor seconds per picture: {compared}", _ratio(processor_seconds), ""),
            Line("load of the machine at the end", f"{os.getloadavg()[0]:.1f}", ""),
        ]
    )


def _ratio(figures: dict[int, list[float]]) -> str:
    one, several = figures.values()
    ratio = statistics.median(b / a for a, b in zip(one, several, strict=True))
    return f"{ratio:.2f} ({statistics.median(several):.2f} / {statistics.median(one):.2f})"


def _measure(folder: Path, workers: int, options: argparse.Namespace) -> tuple[float, float]:
    """Pictures per second, and the workers' processor seconds per picture."""
    settings = [
        f"painting.model={options.model}",
        f"painting.devices={','.join([options.device] * workers)}",
        # The same for one worker and for each of several, because the workers are compared.
        "painting.threads=1",
    ]
    with serving(folder, settings=settings, core=None) as server:
        _wait_for(server, workers)
        spent = _processor_time(server)
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
        spent = _processor_time(server) - spent
    begun, ended, pictures = figures
    return pictures / (ended - begun) * 1000, spent / pictures


def _processor_time(server: Server) -> float:
    """The workers' processor seconds so far."""
    times = [worker.cpu_times() for worker in psutil.Process(server.process.pid).children()]
    return sum(each.user + each.system for each in times)


def _wait_for(server: Server, workers: int) -> None:
    ready = 0
    while ready < workers:
        time.sleep(0.2)
        listed = server.call("GET", "/health")[1]["data"]["workers"]
        ready = sum(worker["state"] == "ready" for worker in listed)
