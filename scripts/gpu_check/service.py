"""The service on this card: from POST to file, saturated, picked up, with previews and without."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.benchmarks.server import PROMPT, Server, serving
from scripts.gpu_check.context import Context
from scripts.gpu_check.results import wrong_unless


def run(context: Context) -> None:
    """A server with the model, then one that paints in batches; starting takes 25 s on a card."""
    step = context.recorder.step
    few, middle, many = (2, 2, 3) if context.tiny else (4, 20, 30)
    seconds, patience = (1.0, 5.0) if context.tiny else (8.0, 30.0)
    started = time.monotonic()
    with _server(context) as server:
        step("server ready", lambda: {"seconds": round(time.monotonic() - started, 2)})
        step("first picture", lambda: _post(server, few, 1.0, 0))
        step(f"POST to file, {few} steps", lambda: _median(server, few, 1.0, 5))
        step(f"POST to file, {many} steps", lambda: _median(server, many, 5.0, 2), needs=10)
        step(
            f"8 clients, {middle} steps",
            lambda: _saturated(server, middle, 5.0, seconds),
            needs=patience,
        )
        step(
            f"8 clients, {few} steps",
            lambda: _saturated(server, few, 1.0, seconds / 2),
            needs=patience / 2,
        )
    step(
        f"8 clients, {middle} steps, batches of up to 4",
        lambda: _saturated_in_batches(context, middle, seconds),
        needs=60,
    )


def _saturated_in_batches(context: Context, steps: int, seconds: float) -> dict:
    with _server(context, "painting.max_batch=4") as server:
        _post(server, steps, 5.0, 0)
        return _saturated(server, steps, 5.0, seconds)


@contextmanager
def _server(context: Context, *settings: str) -> Iterator[Server]:
    settings = [
        *settings,
        f"painting.model={context.model.folder}",
        f"painting.devices={'cpu' if context.tiny else 'auto'}",
    ]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        log = context.folder / "serve.log"
        with serving(Path(folder) / "data", settings=settings, log=log, core=None) as server:
            server.wait_until_ready()
            yield server


def _post(server: Server, steps: int, guidance: float, seed: int) -> dict:
    body = {
        "prompt": PROMPT,
        "autoEnhance": False,
        "steps": steps,
        "guidanceScale": guidance,
        "seed": seed,
    }
    started = time.perf_counter()
    status, answer = server.call("POST", "/api/v1/generations", body, Prefer="wait=60")
    taken = time.perf_counter() - started
    if status != 201 or answer["data"]["status"] != "success":
        raise RuntimeError(str(answer)[:400])
    return {"seconds": round(taken, 4)}


def _median(server: Server, steps: int, guidance: float, rounds: int) -> dict:
    taken = [_post(server, steps, guidance, seed)["seconds"] for seed in range(rounds)]
    median = round(statistics.median(taken), 4)
    return {"seconds": median, "shortest": min(taken), "longest": max(taken)}


def _saturated(server: Server, steps: int, guidance: float, seconds: float) -> dict:
    until = time.monotonic() + seconds
    taken: list[float] = []
    errors: list[str] = []

    def client(number: int) -> None:
        seed = number * 1000
        while time.monotonic() < until:
            seed += 1
            try:
                taken.append(_post(server, steps, guidance, seed)["seconds"])
            except (RuntimeError, OSError) as error:
                errors.append(str(error)[:200])
                return

    started = time.monotonic()
    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    elapsed = time.monotonic() - started
    found = {"pictures a second": round(len(taken) / elapsed, 2), "pictures": len(taken)}
    return found | wrong_unless((not errors, "; ".join(errors[:2])))
