"""A hundred clients for a minute, while the worker paints; and how much a large database costs.

The server is held to one core; worker and clients share the other, and the clients come first
there, since they stand for other machines. A client asks, thinks for a moment and asks again: it
submits, polls, lists or reads a file. Whatever it is answered is counted.
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

from scripts.benchmarks.load import request
from scripts.benchmarks.server import (
    PROMPT,
    ROWS,
    Line,
    Server,
    compare,
    fill,
    held_to_core,
    print_table,
    serving,
)

GENERATIONS = "/api/v1/generations"
KINDS = ("submit", "poll", "list", "file")
SHARES = (10, 60, 15, 15)
STATUSES = ("pending", "processing", "success", "failed")
FEW = 1000
SETTLED = 2000
"""Requests after which the memory is looked at first: caches and threads are there by then."""


def main(arguments: list[str]) -> int:
    """Measure and print the table; 1 when something was answered that must not be."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        lines, faults = _crowd(Path(folder), options)
        lines += _growth(Path(folder), options)
    print_table(lines)
    for fault in faults:
        print(f"NOT AS PROMISED: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench load", description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they ask")
    parser.add_argument("--pause", type=float, default=0.15, help="seconds between, on average")
    parser.add_argument("--requests", type=int, default=20_000, help="at least; for the memory")
    parser.add_argument("--queue-size", type=int, default=100, help="limits.queue_size")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is shown")
    parser.add_argument("--model", default="banatie-small", help="the painting model")
    return parser.parse_args(arguments)


@dataclass
class _Seen:
    """What the clients know and have seen."""

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
        """Count an answer; look at the memory now and then."""
        self.answers[f"{status} {code}".strip()] += 1
        self.seconds[kind].append(seconds)
        self.requests += 1
        if self.requests >= SETTLED and self.requests % 500 == 0:
            self.memory.append(self.server.memory_mb())


def _crowd(folder: Path, options: argparse.Namespace) -> tuple[list[Line], list[str]]:
    log, data = folder / "log", folder / "crowd"
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
        with held_to_core([*worker, "worker"], 1, log):
            server.wait_until_ready()
            body = {"prompt": PROMPT, "autoEnhance": False}
            _, answer = server.call("POST", GENERATIONS, body, Prefer="wait=120")
            seen = _Seen(server, [answer["data"]["id"]])
            seen.learn(answer["data"])
            asyncio.run(_ask(seen, options))
            _, page = server.call("GET", f"{GENERATIONS}?status=success&limit=1")
    loads.append(os.getloadavg()[0])
    return _judge(seen, options, page["pagination"]["total"], loads, log.read_text())


async def _ask(seen: _Seen, options: argparse.Namespace) -> None:
    until = time.monotonic() + options.seconds

    def more() -> bool:
        return time.monotonic() < until or seen.requests < SETTLED + options.requests

    clients = (_client(seen, options.pause, random.Random(n), more) for n in range(options.clients))
    await asyncio.gather(*clients)


async def _client(seen: _Seen, pause: float, chance: random.Random, more) -> None:
    await asyncio.sleep(chance.random() * pause)
    reader, writer = await asyncio.open_connection("127.0.0.1", seen.server.port)
    while more():
        [kind] = chance.choices(KINDS, SHARES)
        started = time.perf_counter()
        writer.write(_request(kind, seen, chance))
        status, headers, body = await _answer(reader)
        code = ""
        if status >= 400:
            code = json.loads(body)["error"]["code"] if body else f"without a word to {kind}"
            code += " with Retry-After" * ("retry-after" in headers)
        seen.note(kind, status, code, time.perf_counter() - started)
        if kind in ("submit", "poll") and status < 300:
            seen.learn(json.loads(body)["data"])
        await asyncio.sleep(chance.random() * 2 * pause)
    writer.close()


def _request(kind: str, seen: _Seen, chance: random.Random) -> bytes:
    headers = dict(seen.server.headers)
    if kind == "submit":
        body = {"prompt": PROMPT, "autoEnhance": chance.random() < 0.3, "steps": 4}
        headers |= {"Content-Type": "application/json", "Prefer": "respond-async"}
        return request("POST", GENERATIONS, headers, json.dumps(body).encode())
    if kind == "poll":
        # Mostly the latest ones, as those do who wait.
        return request("GET", f"{GENERATIONS}/{chance.choice(seen.generations[-100:])}", headers)
    if kind == "list":
        query = f"limit=20&offset={chance.choice((0, 0, 20))}"
        if chance.random() < 0.5:
            query += f"&status={chance.choice(STATUSES)}"
        return request("GET", f"{GENERATIONS}?{query}", headers)
    return request("GET", chance.choice(seen.files[-100:]), {})


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
    }
    return (
        int(head[0].split()[1]),
        headers,
        await reader.readexactly(int(headers["content-length"])),
    )


def _judge(
    seen: _Seen, options: argparse.Namespace, pictures: int, loads: list[float], log: str
) -> tuple[list[Line], list[str]]:
    full = "503 QUEUE_FULL with Retry-After"
    faults = [
        f"{number} × {answer}"
        for answer, number in seen.answers.items()
        if answer not in ("200", "201", full)
    ]
    faults += [line for line in log.splitlines() if "locked" in line or "Traceback" in line]
    growth = seen.memory[-1] / seen.memory[0] - 1
    answers = ", ".join(f"{seen.answers[name]:,} × {name}" for name in sorted(seen.answers))
    lines = [
        Line(
            f"{options.clients} clients, {seen.requests:,} requests",
            answers,
            "no other 5xx than QUEUE_FULL",
        ),
        Line("'locked' or a traceback in the log", f"{len(faults)} times", "never"),
    ]
    for kind in KINDS:
        goal = "p99 100 ms" if kind == "poll" else ""
        lines.append(Line(f"{kind}, while the worker paints", _percentiles(seen, kind), goal))
    memory = f"{growth:+.1%} ({seen.memory[0]:.1f} → {seen.memory[-1]:.1f} MB)"
    lines += [
        Line(f"memory of web over {seen.requests - SETTLED:,} requests", memory, "within 10%"),
        Line("pictures painted meanwhile", f"{pictures:,}", ""),
        Line("load of the machine before and after", f"{loads[0]:.1f}, {loads[1]:.1f}", ""),
    ]
    return lines, faults


def _percentiles(seen: _Seen, kind: str) -> str:
    milliseconds = [1000 * seconds for seconds in seen.seconds[kind]]
    hundredths = statistics.quantiles(milliseconds, n=100)
    return f"p50 {hundredths[49]:.1f} ms, p99 {hundredths[98]:.1f} ms"


def _growth(folder: Path, options: argparse.Namespace) -> list[Line]:
    """How much longer things take with a hundred times as many generations."""
    lines = []
    with (
        serving(folder / "few", "--no-worker") as few,
        serving(folder / "many", "--no-worker") as many,
    ):
        _, few_ids = fill(few, folder / "few", FEW)
        _, many_ids = fill(many, folder / "many", ROWS)
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
    "list by a status that hardly any has": "?status=pending&limit=20",
}
