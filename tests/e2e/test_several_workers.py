"""`serve` with a worker for each of several devices; here each device is the CPU."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.support.service import START_SECONDS, Service

STOP_SECONDS = 5.0


def test_serve_keeps_a_worker_for_each_device(new_service: Callable[..., Service]) -> None:
    service = new_service(painting__devices="cpu,cpu,cpu")
    server, _ = service.serve()

    def ready() -> list[dict]:
        workers = service.health().json()["data"]["workers"]
        return [worker for worker in workers if worker["state"] == "ready"]

    service.wait_for(lambda: len(ready()) == 3, "three workers", START_SECONDS)
    workers = set(service.alive("banatie", "worker"))
    assert len(workers) == 3
    # Each has the painting model, and one of them the language model.
    models = [worker["models"] for worker in ready()]
    assert len({model["painting"] for model in models}) == 1
    assert sum(model["enhancement"] is not None for model in models) == 1

    jobs = [service.post("a cat", autoEnhance=False, steps=20) for _ in range(6)]
    jobs.append(service.post("a red cat", prefer="respond-async", steps=2))
    victim = min(workers)
    os.kill(victim, signal.SIGKILL)
    for job in jobs:
        ended = service.wait_until_ended(job["id"], 90)
        assert (ended["status"], ended["warnings"]) == ("success", [])
    service.wait_for(lambda: len(ready()) == 3, "the third worker again", START_SECONDS)
    assert set(service.alive("banatie", "worker")) > workers - {victim}
    assert service.health().status_code == 200

    # Without --device a worker must be the only one; with it, it may join the others.
    refused = service.run("worker")
    assert refused.returncode == 1
    assert "--device" in refused.stderr
    added = service.start("worker", "--device", "cpu")
    service.wait_for(lambda: len(ready()) == 4, "the fourth worker", START_SECONDS)
    service.stop(added)
    service.wait_for(lambda: len(ready()) == 3, "the three others")

    job = service.post("a cat", autoEnhance=False, steps=100)
    service.wait_until_painting(job["id"])
    assert service.stop(server, signal.SIGTERM) < STOP_SECONDS
    assert service.alive() == []
    assert list(service.data.glob("worker-*.lock")) == []
    assert "Traceback" not in service.log.read_text()
