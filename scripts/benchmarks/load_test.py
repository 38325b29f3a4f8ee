"""Load test: a hundred clients for a minute while the worker paints, and the cost of many rows.

The server is pinned to one core. Worker and clients share the other, where the clients have
priority, since they stand for other machines. A client sends a request, pauses, and sends the next:
it submits, polls, lists or reads a file. All responses are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from scripts.benchmarks.load_generator import request
from scripts.benchmarks.server import (
    PROMPT,
    ROWS,
    Line,
    Server,
    compare,
    fill_database,
    pinned_to_core,
    print_table,
    serving,
)

GENERATIONS = "/api/v1/generations"
KINDS = ("submit", "poll", "list", "file")
WEIGHTS = (10, 60, 15, 15)
STATUSES = ("pending", "processing", "success", "failed")
FEW = 1000
SETTLED = 2000
"""Requests after which the memory is first measured, when caches are filled and threads started."""


def main(arguments: list[str]) -> int:
    """Measure and print the table; 1 when there was an unexpected response."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        lines, failures = _many_clients(Path(folder), options)
        lines += _growth(Path(folder), options)
    print_table(lines)
    for failure in failures:
        print(f"UNEXPECTED: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench load", description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0, help="duration")
    parser.add_argument(
        "--pause", type=float, default=0.15, help="mean seconds between two requests"
    )
    parser.add_argument("--requests", type=int, default=20_000, help="minimum, for the memory")
    parser.add_argument("--queue-size", type=int, default=100, help="limits.queue_size")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is shown")
    parser.add_argument("--model", default="banatie-small", help="the painting model")
    return parser.parse_args(arguments)


@dataclass
class _Results:
    """What the clients know, and the responses that they got."""

    server: Server
    generations: list[str]
    files: list[str] = field(default_factory=list)
    answers: Counter = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory: list[float] = field(default_factory=list)
    requests: int = 0

    def learn(self, record: dict) -> None:
        """Remember a record's id, and its file once there is one."""
        if record["outputImage"]:
            self.files.append(urlsplit(record["outputImage"]["storageUrl"]).path)
        elif record["status"] == "pending":
            self.generations.append(record["id"])

    def note(self, kind: str, status: int, code: str, seconds: float) -> None:
        """Count a response; measure the memory now and then."""
        self.answers[f"{status} {code}".strip()] += 1
        self.seconds[kind].append(seconds)
        self.requests += 1
        if self.requests >= SETTLED and self.requests % 500 == 0:
            self.memory.append(self.server.memory_mb())


def _many_clients(folder: Path, options: argparse.Namespace) -> tuple[list[Line], list[str]]:
    log, data = folder / "log", folder / "clients"
    settings = [
        f"limits.queue_size={options.queue_size}",
        f"painting.model={options.model}",
        "painting.threads=1",
    ]
    loads = [os.getloadavg()[0]]
    with serving(data, "--no-worker", settings=settings, log=log) as server:
        worker = ["nice", sys.executable, "-m", "banatie", "--set", f"storage.data_dir={data}"]
        for setting in settings:
            worker += ["--set", setting]
        with pinned_to_core([*worker, "worker"], 1, log):
            server.wait_until_ready()
            body = {"prompt": PROMPT, "autoEnhance": False}
            _, answer = server.call("POST", GENERATIONS, body, Prefer="wait=120")
            results = _Results(server, [answer["data"]["id"]])
            results.learn(answer["data"])
            asyncio.run(_ask(results, options))
            _, page = server.call("GET", f"{GENERATIONS}?status=success&limit=1")
    loads.append(os.getloadavg()[0])
    return _summarise(results, options, page["pagination"]["total"], loads, log.read_text())


async def _ask(results: _Results, options: argparse.Namespace) -> None:
    until = time.monotonic() + options.seconds

    def more() -> bool:
        return time.monotonic() < until or results.requests < SETTLED + options.requests

    clients = (
        _client(results, options.pause, random.Random(n), more) for n in range(options.clients)
    )
    await asyncio.gather(*clients)


async def _client(results: _Results, pause: float, rng: random.Random, more) -> None:
    await asyncio.sleep(rng.random() * pause)
    reader, writer = await asyncio.open_connection("127.0.0.1", results.server.port)
    while more():
        [kind] = rng.choices(KINDS, WEIGHTS)
        started = time.perf_counter()
        writer.write(_request(kind, results, rng))
        status, headers, body = await _read_response(reader)
        code = ""
        if status >= 400:
            code = json.loads(body)["error"]["code"] if body else f"empty response to {kind}"
            code += " with Retry-After" * ("retry-after" in headers)
        results.note(kind, status, code, time.perf_counter() - started)
        if kind in ("submit", "poll") and status < 300:
            results.learn(json.loads(body)["data"])
        await asyncio.sleep(rng.random() * 2 * pause)
    writer.close()


def _request(kind: str, results: _Results, rng: random.Random) -> bytes:
    headers = dict(results.server.headers)
    if kind == "submit":
        body = {"prompt": PROMPT, "autoEnhance": rng.random() < 0.3, "steps": 4}
        headers |= {"Content-Type": "application/json", "Prefer": "respond-async"}
        return request("POST", GENERATIONS, headers, json.dumps(body).encode())
    if kind == "poll":
        # Recent ones, as waiting clients do.
        return request("GET", f"{GENERATIONS}/{rng.choice(results.generations[-100:])}", headers)
    if kind == "list":
        query = f"limit=20&offset={rng.choice((0, 0, 20))}"
        if rng.random() < 0.5:
            query += f"&status={rng.choice(STATUSES)}"
        return request("GET", f"{GENERATIONS}?{query}", headers)
    return request("GET", rng.choice(results.files[-100:]), {})


async def _read_response(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
    }
    return (
        int(head[0].split()[1]),
        headers,
        await reader.readexactly(int(headers["content-length"])),
    )


def _summarise(
    results: _Results,
    options: argparse.Namespace,
    pictures: int,
    loads: list[float],
    log: str,
) -> tuple[list[Line], list[str]]:
    full = "503 QUEUE_FULL with Retry-After"
    failures = [
        f"{number} × {answer}"
        for answer, number in results.answers.items()
        if answer not in ("200", "201", full)
    ]
    failures += [line for line in log.splitlines() if "locked" in line or "Traceback" in line]
    growth = results.memory[-1] / results.memory[0] - 1
    answers = ", ".join(f"{results.answers[name]:,} × {name}" for name in sorted(results.answers))
    lines = [
        Line(
            f"{options.clients} clients, {results.requests:,} requests",
            answers,
            "no 5xx but QUEUE_FULL",
        ),
        Line("'locked' or a traceback in the log", f"{len(failures)} times", "never"),
    ]
    for kind in KINDS:
        goal = "p99 100 ms" if kind == "poll" else ""
        lines.append(Line(f"{kind}, while the worker paints", _percentiles(results, kind), goal))
    memory = f"{growth:+.1%} ({results.memory[0]:.1f} → {results.memory[-1]:.1f} MB)"
    lines += [
        Line(f"memory of web over {results.requests - SETTLED:,} requests", memory, "within 10%"),
        Line("pictures painted during the test", f"{pictures:,}", ""),
        Line("load of the machine before and after", f"{loads[0]:.1f}, {loads[1]:.1f}", ""),
    ]
    return lines, failures


def _percentiles(results: _Results, kind: str) -> str:
    milliseconds = [1000 * seconds for seconds in results.seconds[kind]]
    hundredths = statistics.quantiles(milliseconds, n=100)
    return f"p50 {hundredths[49]:.1f} ms, p99 {hundredths[98]:.1f} ms"


def _growth(folder: Path, options: argparse.Namespace) -> list[Line]:
    """How much longer requests take with a hundred times as many generations."""
    lines = []
    with (
        serving(folder / "few", "--no-worker") as few,
        serving(folder / "many", "--no-worker") as many,
    ):
        _, few_ids = fill_database(few, folder / "few", FEW)
        _, many_ids = fill_database(many, folder / "many", ROWS)
        for name, few_paths, many_paths in (
            ("get", [f"/{i}" for i in few_ids], [f"/{i}" for i in many_ids]),
            *((name, [query], [query]) for name, query in QUERIES.items()),
        ):
            ratio, _, _ = compare(
                argparse.Namespace(seconds=2.0, rounds=options.rounds),
                (few.port, [request("GET", GENERATIONS + p, few.headers) for p in few_paths]),
                (many.port, [request("GET", GENERATIONS + p, many.headers) for p in many_paths]),
            )
            figure = f"{ratio:.2f} × the time"
            lines.append(Line(f"{name}, {ROWS:,} generations / {FEW:,}", figure, "2 ×"))
    return lines


QUERIES = {
    "list": "?limit=20",
    "list of a hundred": "?limit=100",
    "list by status": "?status=failed&limit=20",
    "list by a rare status": "?status=pending&limit=20",
}
