"""The HTTP server, the queue, and the time from POST to picture, against minimal equivalents.

The server is pinned to one core and the load generator to the other. Both sides of every ratio are
measured in turn in one run, so that other load of the machine affects both.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from banatie.records import Image
from banatie.store.claims import Claims
from banatie.store.database import Database
from banatie.store.files import Files, generated_key
from scripts.benchmarks.load_generator import request, requests_per_second
from scripts.benchmarks.server import (
    PROMPT,
    ROWS,
    Line,
    Server,
    compare,
    fill_database,
    free_port,
    pinned_to_core,
    print_table,
    serving,
)


def main(arguments: list[str]) -> None:
    """Measure and print the table."""
    options = _options(arguments)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        for measure in (_reading, _accepting, _files, _live, _end_to_end):
            lines += measure(Path(folder) / measure.__name__, options)
            for line in lines[-4:]:
                print(f"  {line.name}: {line.figure}", file=sys.stderr)
    print_table(lines)


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
    with serving(folder, "--no-worker") as server:
        project_id, ids = fill_database(server, folder)
        one = [request("GET", f"/api/v1/generations/{i}", server.headers) for i in ids]
        lines = []
        with _baseline("row", folder / "banatie.db") as port:
            bare = [request("GET", f"/row/{i}", {}) for i in ids]
            ratio, ours, theirs = compare(options, (server.port, one), (port, bare))
            figure = f"{ratio:.2f} ({ours:,.0f} / {theirs:,.0f} requests a second)"
            name = f"GET a generation / a bare handler, {ROWS:,} rows"
            lines.append(Line(name, figure, "0.8"))
            for page in (1, 2000):
                offset = (page - 1) * 20
                query = f"limit=20&offset={offset}"
                listed = [request("GET", f"/api/v1/generations?{query}", server.headers)]
                bare = [request("GET", f"/list/{project_id}?{query}", {})]
                ratio, ours, theirs = compare(options, (server.port, listed), (port, bare))
                figure = f"{ratio:.2f} ({ours:,.0f} / {theirs:,.0f} requests a second)"
                lines.append(Line(f"the list, page {page:,} / a bare handler", figure, "0.5"))
        lines.append(Line("resident memory of web", f"{server.memory_mb():.0f} MB", "120 MB"))
    return lines


def _accepting(folder: Path, options: argparse.Namespace) -> list[Line]:
    with serving(folder, "--no-worker") as server:
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
    with serving(folder, "--no-worker") as server:
        name = "00000000-0000-4000-8000-000000000001"
        key = f"default/{name}/generated/{name}.png"
        file = folder / "storage" / key
        file.parent.mkdir(parents=True)
        file.write_bytes(os.urandom(1_500_000))
        with _baseline("static", file.parent) as port:
            ratio, ours, theirs = compare(
                options,
                (server.port, [request("GET", f"/storage/{key}", {})]),
                (port, [request("GET", f"/static/{file.name}", {})]),
            )
    figure = f"{ratio:.2f} ({ours:,.0f} / {theirs:,.0f} files a second)"
    return [Line("files of 1.5 MB / granian's static files", figure, "0.8")]


def _live(folder: Path, options: argparse.Namespace) -> list[Line]:
    """HITs of a live URL with a picture of the bundled model's size, and those that are 304."""
    with serving(folder, "--no-worker", settings=["live.wait=0"]) as server:
        url = f"/cdn/default/default/live/bench?prompt={quote(PROMPT)}&autoEnhance=false"
        server.call("GET", url)
        file = _finish_by_hand(folder, 60_000)
        live = request("GET", url, {})
        etag = _header(server, url, "etag")
        unchanged = request("GET", url, {"If-None-Match": etag})
        lines = []
        with _baseline("file", file.parent) as port:
            bare = [request("GET", f"/{file.name}", {})]
            for name, ours in (("HITs of a live URL", live), ("the same, 304", unchanged)):
                ratio, mine, theirs = compare(options, (server.port, [ours]), (port, bare))
                figure = f"{ratio:.2f} ({mine:,.0f} / {theirs:,.0f} requests a second)"
                lines.append(Line(f"{name} / a bare file handler", figure, "0.5"))
        with _baseline("static", file.parent) as port:
            static = [request("GET", f"/static/{file.name}", {})]
            ratio, mine, theirs = compare(options, (server.port, [live]), (port, static))
            figure = f"{ratio:.2f} ({mine:,.0f} / {theirs:,.0f} requests a second)"
            lines.append(Line("HITs of a live URL / granian's static files", figure, ""))
    return lines


def _finish_by_hand(folder: Path, size: int) -> Path:
    """End the only generation with a picture of so many random bytes; its file."""
    with contextlib.closing(Database(folder / "banatie.db")) as database:
        claims, now = Claims(database, "bench"), time.time_ns() // 1_000_000
        generation = claims.claim("paint", now)
        if generation is None:
            raise RuntimeError("the live URL has submitted nothing")
        claims.start_painting(generation.id, model="bench", steps=1, guidance_scale=1.0, now=now)
        image_id = str(uuid.uuid4())
        key = generated_key("default", generation.project_id, image_id)
        files = Files(folder / "storage")
        files.save(key, os.urandom(size))
        image = Image(image_id, generation.project_id, key, "image/png", 192, 192, size, now)
        claims.succeed(generation.id, image, 1, now)
        return files.path(key)


def _header(server: Server, path: str, name: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    value = response.headers[name]
    connection.close()
    if response.status != 200 or value is None:
        raise RuntimeError(f"{path} is answered with {response.status}")
    return value


def _end_to_end(folder: Path, options: argparse.Namespace) -> list[Line]:
    settings = [f"painting.model={options.model}", "painting.threads=1"]
    with serving(folder, settings=settings) as server:
        server.wait_until_ready()
        paint = _bare_pipeline(options)
        ours, theirs = [], []
        for number in range(options.pictures + 1):
            theirs.append(_seconds(lambda seed=number: paint(seed)))
            ours.append(_seconds(lambda seed=number: _generate(server, options.steps, seed)))
        # The first of each is the warm-up.
        bare, whole = statistics.median(theirs[1:]), statistics.median(ours[1:])
        picked = sorted(_pick_up(server, folder, options.idle) for _ in range(options.pick_ups))
    extra = (whole - bare) * 1000
    figure = f"{whole / bare:.3f}, {extra:+.0f} ms ({whole:.3f} / {bare:.3f} s)"
    pick_up = (
        f"p50 {statistics.median(picked):.1f} ms, longest of {len(picked)}: {picked[-1]:.1f} ms"
    )
    return [
        Line("POST to picture on disk / the bare pipeline", figure, "1.03, +30 ms"),
        Line(f"pick-up after {options.idle:g} s idle", pick_up, "p50 5 ms, p99 20 ms"),
    ]


def _bare_pipeline(options: argparse.Namespace) -> Callable[[int], object]:
    import torch
    from diffusers import StableDiffusionXLPipeline

    from banatie.models.catalog import Catalog

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


def _generate(server: Server, steps: int, seed: int) -> None:
    body = {"prompt": PROMPT, "autoEnhance": False, "steps": steps, "seed": seed}
    status, answer = server.call("POST", "/api/v1/generations", body, Prefer="wait=120")
    if status != 201 or answer["data"]["status"] != "success":
        raise RuntimeError(str(answer))


def _pick_up(server: Server, folder: Path, idle: float) -> float:
    """Milliseconds from the 201 until the row is claimed, as a third process sees it."""
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


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextlib.contextmanager
def _baseline(kind: str, target: Path) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "scripts.benchmarks.baselines", kind, str(port), str(target)]
    with pinned_to_core(command, 0):
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield port
