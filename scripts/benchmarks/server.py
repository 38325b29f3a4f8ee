"""Shared by the benchmarks: a server on one core, its load on the others, rows, and the table."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from banatie.store.database import Database
from scripts.benchmarks.load_generator import requests_per_second

ROWS = 100_000
PROMPT = "a red sports car on a mountain road"
CORES = sorted(os.sched_getaffinity(0))
"""The cores of this machine, read before this process leaves one to the server."""


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    name: str
    figure: str
    goal: str


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    process: subprocess.Popen
    key: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers that authenticate a request."""
        return {"X-API-Key": self.key}

    def memory_mb(self) -> float:
        """The resident memory of its process in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024

    def wait_until_ready(self) -> None:
        """Wait until a worker has loaded its models."""
        for _ in range(600):
            if self.call("GET", "/health")[0] == 200:
                return
            time.sleep(0.1)
        raise RuntimeError("the worker is not ready after a minute")

    def call(self, method: str, path: str, body: dict | None = None, **headers: str) -> tuple:
        """The status and JSON of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=180)
        headers = {**self.headers, "Content-Type": "application/json", **headers}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        content = json.loads(response.read())
        connection.close()
        return response.status, content


@contextlib.contextmanager
def serving(
    folder: Path,
    *arguments: str,
    settings: Sequence[str] = (),
    log: Path | None = None,
    core: int | None = 0,
) -> Iterator[Server]:
    """A server on a new data folder, pinned to a core, or to none."""
    port = free_port()
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "banatie"]
    for setting in (
        f"server.port={port}",
        f"storage.data_dir={folder}",
        "limits.requests_per_hour=0",
        "limits.queue_size=10000000",
        "log.level=warning",
        *settings,
    ):
        command += ["--set", setting]
    command += ["serve", *arguments]
    with pinned_to_core(command, core, log) as process:
        text = ""
        while "bnt_" not in text:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server did not start:\n{text}")
            text += line
        yield Server(port, process, re.search(r"bnt_[\w-]+", text)[0])


@contextlib.contextmanager
def pinned_to_core(
    command: Sequence[str], core: int | None, log: Path | None = None
) -> Iterator[subprocess.Popen]:
    """A process pinned to one core, with this one on the others, or both on all cores."""
    before = os.sched_getaffinity(0)
    cores = before if core is None else {CORES[core % len(CORES)]}
    with log.open("ab") if log else contextlib.nullcontext() as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    os.sched_setaffinity(0, before - cores or before)
    try:
        yield process
    finally:
        os.sched_setaffinity(0, before)
        process.send_signal(signal.SIGTERM)
        process.wait(15)


def fill_database(server: Server, folder: Path, rows: int = ROWS) -> tuple[str, list[str]]:
    """Insert copies of one generation; returns the project's id and a hundred of their ids."""
    body = {"prompt": PROMPT, "autoEnhance": False, "meta": {"bench": True}}
    _, answer = server.call("POST", "/api/v1/generations", body, Prefer="respond-async")
    database = Database(folder / "banatie.db")
    columns = [row["name"] for row in database.query("PRAGMA table_info(generations)")]
    changed = {
        "number": "NULL",
        "id": "printf('00000000-0000-4000-8000-%012d', value)",
        "created_at": "created_at + value",
        "status": "'failed'",
        "stage": "'done'",
        "revision": "1",
    }
    values = ", ".join(changed.get(column, column) for column in columns)
    with database.writing() as connection:
        connection.execute(
            f"WITH RECURSIVE series(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM series "
            f"WHERE value < {rows - 1}) INSERT INTO generations ({', '.join(columns)}) "
            f"SELECT {values} FROM generations, series"
        )
    database.close()
    ids = [f"00000000-0000-4000-8000-{n:012d}" for n in range(1, rows, rows // 100)]
    return answer["data"]["projectId"], ids


def compare(
    options: argparse.Namespace, ours: tuple[int, list[bytes]], theirs: tuple[int, list[bytes]]
) -> tuple[float, float, float]:
    """The median ratio of two servers' requests per second, measured in turn, and the medians."""
    pairs = [
        (
            requests_per_second(*ours, options.seconds),
            requests_per_second(*theirs, options.seconds),
        )
        for _ in range(options.rounds)
    ]
    ratio = statistics.median(a / b for a, b in pairs)
    return ratio, statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def print_table(lines: Sequence[Line]) -> None:
    """Print the lines as a Markdown table."""
    print(f"| {'what':<58} | {'measured':<44} | goal |\n|---|---|---|")
    for line in lines:
        print(f"| {line.name:<58} | {line.figure:<44} | {line.goal} |")


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
