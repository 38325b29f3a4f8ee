"""The HTTP front, the queue, and the whole way from POST to picture, against bare equivalents.

The server is held to one core and the load generator to the other; every ratio is taken in one run,
the two sides in turn, so that whatever else the machine does hits both.
"""

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
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from banatie.store.database import Database
from scripts.bench_lib.load import request, requests_per_second

ROWS = 100_000
PROMPT = "a red sports car on a mountain road"


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    name: str
    figure: str
    goal: str


def main(arguments: list[str]) -> None:
    """Measure and print the table."""
    options = _options(arguments)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        for measure in (_reading, _accepting, _files, _whole_way):
            lines += measure(Path(folder) / measure.__name__, options)
            for line in lines[-4:]:
                print(f"  {line.name}: {line.figure}", file=sys.stderr)
    print(f"| {'what':<58} | {'measured':<44} | goal |\n|---|---|---|")
    for line in lines:
        print(f"| {line.name:<58} | {line.figure:<44} | {line.goal} |")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench service", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each side of each round")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is shown")
    parser.add_argument("--pictures", type=int, default=15, help="for POST to picture")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds before each pick-up")
    parser.add_argument("--pick-ups", type=int, default=10)
    parser.add_argument("--model", default="banatie-small", help="the painting model")
    parser.add_argument("--steps", type=int, default=8)
    return parser.parse_args(arguments)


def _reading(folder: Path, options: argparse.Namespace) -> list[Line]:
    with _serving(folder, "--no-worker") as server:
        project_id, ids = _fill(server, folder)
        one = [request("GET", f"/api/v1/generations/{i}", server.headers) for i in ids]
        lines = []
        with _baseline("row", folder / "banatie.db") as port:
            bare = [request("GET", f"/row/{i}", {}) for i in ids]
            ratio, ours, theirs = _compare(options, (server.port, one), (port, bare))
            figure = f"{ratio:.2f} ({ours:,.0f} / {theirs:,.0f} requests a second)"
            name = f"GET a generation / a bare handler, {ROWS:,} rows"
            lines.append(Line(name, figure, "0.8"))
            for page in (1, 2000):
                offset = (page - 1) * 20
                query = f"limit=20&offset={offset}"
                listed = [request("GET", f"/api/v1/generations?{query}", server.headers)]
                bare = [request("GET", f"/list/{project_id}?{query}", {})]
                ratio, ours, theirs = _compare(options, (server.port, listed), (port, bare))
                figure = f"{ratio:.2f} ({ours:,.0f} / {theirs:,.0f} requests a second)"
                lines.append(Line(f"the list, page {page:,} / a bare handler", figure, "0.5"))
        lines.append(Line("resident memory of web", f"{server.memory_mb():.0f} MB", "120 MB"))
    return lines


def _accepting(folder: Path, options: argparse.Namespace) -> list[Line]:
    with _serving(folder, "--no-worker") as server:
        body = json.dumps({"prompt": PROMPT, "autoEnhance": False}).encode()
        headers = {
            **server.headers,
            "Content-Type": "application/json",
            "Prefer": "respond-async",
        }
        post = [request("POST", "/api/v1/generations", headers, body)]
        rates = [
            requests_per_second(server.port, post, options.seconds) for _ in range(options.rounds)
        ]
    return [Line("accepted POSTs a second, durable", f"{statistics.median(rates):,.0f}", "1,000")]


def _files(folder: Path, options: argparse.Namespace) -> list[Line]:
    with _serving(folder, "--no-worker") as server:
        name = "00000000-0000-4000-8000-000000000001"
        key = f"default/{name}/generated/{name}.png"
        file = folder / "storage" / key
        file.parent.mkdir(parents=True)
        file.write_bytes(os.urandom(1_500_000))
        with _baseline("static", file.parent) as port:
            ratio, ours, theirs = _compare(
                options,
                (server.port, [request("GET", f"/storage/{key}", {})]),
                (port, [request("GET", f"/static/{file.name}", {})]),
            )
    figure = f"{ratio:.2f} ({ours:,.0f} / {theirs:,.0f} files a second)"
    return [Line("files of 1.5 MB / granian's static files", figure, "0.8")]


def _whole_way(folder: Path, options: argparse.Namespace) -> list[Line]:
    settings = ["--set", f"painting.model={options.model}", "--set", "painting.threads=1"]
    with _serving(folder, settings=settings) as server:
        server.wait_until_ready()
        paint = _bare_pipeline(options)
        ours, theirs = [], []
        for number in range(options.pictures + 1):
            theirs.append(_seconds(lambda seed=number: paint(seed)))
            ours.append(_seconds(lambda seed=number: _generate(server, options.steps, seed)))
        # The first of each warms up.
        bare, whole = statistics.median(theirs[1:]), statistics.median(ours[1:])
        picked = sorted(_pick_up(server, folder, options.idle) for _ in range(options.pick_ups))
    extra = (whole - bare) * 1000
    figure = f"{whole / bare:.3f}, {extra:+.0f} ms ({whole:.3f} / {bare:.3f} s)"
    pick_up = (
        f"p50 {statistics.median(picked):.1f} ms, longest of {len(picked)}: {picked[-1]:.1f} ms"
    )
    return [
        Line("POST to picture on disk / the bare pipeline", figure, "1.03, +30 ms"),
        Line(f"pick-up after {options.idle:g} s of idling", pick_up, "p50 5 ms, p99 20 ms"),
    ]


def _bare_pipeline(options: argparse.Namespace) -> Callable[[int], object]:
    import torch
    from diffusers import StableDiffusionXLPipeline

    from banatie.inference.catalog import Catalog

    torch.set_num_threads(1)
    model = Catalog(Path("models")).painting_model(options.model)
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        model.folder, local_files_only=True, torch_dtype=torch.float32, use_safetensors=True
    )
    pipeline.set_progress_bar_config(disable=True)
    width, height = model.sizes["1:1"]
    return lambda seed: pipeline(
        prompt=PROMPT,
        width=width,
        height=height,
        num_inference_steps=options.steps,
        guidance_scale=model.guidance_scale,
        generator=torch.Generator().manual_seed(seed),
    )


@dataclass(frozen=True)
class _Server:
    port: int
    process: subprocess.Popen
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"X-API-Key": self.key}

    def memory_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024

    def wait_until_ready(self) -> None:
        for _ in range(600):
            if self.call("GET", "/health")[0] == 200:
                return
            time.sleep(0.1)
        raise RuntimeError("the worker is not ready after a minute")

    def call(self, method: str, path: str, body: dict | None = None, **headers: str) -> tuple:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=180)
        headers = {**self.headers, "Content-Type": "application/json", **headers}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        content = json.loads(answer.read())
        connection.close()
        return answer.status, content


def _generate(server: _Server, steps: int, seed: int) -> None:
    body = {"prompt": PROMPT, "autoEnhance": False, "steps": steps, "seed": seed}
    status, answer = server.call("POST", "/api/v1/generations", body, Prefer="wait=120")
    if status != 201 or answer["data"]["status"] != "success":
        raise RuntimeError(str(answer))


def _pick_up(server: _Server, folder: Path, idle: float) -> float:
    """Milliseconds from the 201 to the row being taken, as a third process sees it."""
    database = Database(folder / "banatie.db")
    time.sleep(idle)
    body = {"prompt": PROMPT, "autoEnhance": False, "steps": 1}
    _, answer = server.call("POST", "/api/v1/generations", body, Prefer="respond-async")
    started = time.perf_counter()
    sql = "SELECT status FROM generations WHERE id = ?"
    while database.first(sql, (answer["data"]["id"],))["status"] == "pending":
        pass
    elapsed = (time.perf_counter() - started) * 1000
    database.close()
    time.sleep(1)
    return elapsed


def _fill(server: _Server, folder: Path) -> tuple[str, list[str]]:
    """Make one generation and 99,999 copies of it; the project's id and a hundred of their ids."""
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
            f"WHERE value < {ROWS - 1}) INSERT INTO generations ({', '.join(columns)}) "
            f"SELECT {values} FROM generations, series"
        )
    database.close()
    ids = [f"00000000-0000-4000-8000-{n:012d}" for n in range(1, ROWS, ROWS // 100)]
    return answer["data"]["projectId"], ids


def _compare(
    options: argparse.Namespace, ours: tuple[int, list[bytes]], theirs: tuple[int, list[bytes]]
) -> tuple[float, float, float]:
    pairs = [
        (
            requests_per_second(*ours, options.seconds),
            requests_per_second(*theirs, options.seconds),
        )
        for _ in range(options.rounds)
    ]
    ratio = statistics.median(a / b for a, b in pairs)
    return ratio, statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextlib.contextmanager
def _serving(folder: Path, *arguments: str, settings: list[str] = ()) -> Iterator[_Server]:
    port = _free_port()
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "banatie", *settings]
    for setting in (
        f"server.port={port}",
        f"storage.data_dir={folder}",
        "limits.requests_per_hour=0",
        "limits.queue_size=10000000",
        "log.level=warning",
    ):
        command += ["--set", setting]
    command += ["serve", *arguments]
    with _process(command, core=0) as process:
        text = ""
        while "bnt_" not in text:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server did not start:\n{text}")
            text += line
        yield _Server(port, process, re.search(r"bnt_[\w-]+", text)[0])


@contextlib.contextmanager
def _baseline(kind: str, target: Path) -> Iterator[int]:
    port = _free_port()
    command = [sys.executable, "-m", "scripts.bench_lib.baselines", kind, str(port), str(target)]
    with _process(command, core=0):
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield port


@contextlib.contextmanager
def _process(command: list[str], core: int) -> Iterator[subprocess.Popen]:
    def hold_to_core() -> None:
        os.sched_setaffinity(0, {core})

    cores = sorted(os.sched_getaffinity(0))
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=hold_to_core if len(cores) > 1 else None,
    )
    if len(cores) > 1:
        os.sched_setaffinity(0, set(cores) - {core})
    try:
        yield process
    finally:
        os.sched_setaffinity(0, cores)
        process.send_signal(signal.SIGTERM)
        process.wait(15)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
