"""A service's life: the first start, the second, and the ways to end one."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from textwrap import dedent

import httpx
import pytest

from tests.support.service import Service

STOP_SECONDS = 5.0


def test_the_first_start_says_all_that_a_picture_takes(service: Service, first_words: str) -> None:
    address, _, rest = first_words.partition("\n")
    assert address == f"Banatie answers at {service.url}"
    assert re.search(rf"^ +{service.key}$", rest, re.MULTILINE)
    assert re.fullmatch(r"bnt_[A-Za-z0-9_-]+", service.key)
    command = dedent(rest[rest.index("    curl") :])
    pasted = subprocess.run(
        ["bash", "-c", command], capture_output=True, env=service.environment, timeout=30
    )
    assert pasted.returncode == 0
    answer = httpx.Response(201, content=pasted.stdout).json()
    assert answer["success"] is True
    assert answer["data"]["originalPrompt"] == "a red sports car on a mountain road"
    assert service.ended(answer["data"]["id"])["status"] == "success"


def test_nothing_is_lost_however_the_service_ends(another: Callable[..., Service]) -> None:
    """One data folder through a stop in the middle, a crash and a kill."""
    house = another()
    server, _ = house.serve()
    jobs = [house.post("a cat", autoEnhance=False, steps=100), house.post("a dog", steps=2)]
    house.painting(jobs[0]["id"])

    # SIGTERM in the middle of a picture.
    assert house.stop(server, signal.SIGTERM) < STOP_SECONDS
    assert server.returncode == 0
    assert house.alive() == []

    # Started again, it shows no key and makes what waited.
    server, said = house.serve()
    assert said == f"Banatie answers at {house.url}\n"
    for job in jobs:
        assert house.ended(job["id"])["status"] == "success"
    assert house.get(jobs[0]["id"])["retryCount"] == 1

    # A worker that is killed is started again by itself.
    job = house.post("a cat", autoEnhance=False, steps=100)
    house.painting(job["id"])
    [worker] = house.alive("banatie", "worker")
    subprocess.run(["kill", "-KILL", str(worker)], check=True)
    ended = house.ended(job["id"], 90)
    assert (ended["status"], ended["retryCount"]) == ("success", 1)
    assert house.health().status_code == 200

    # A server that is killed takes its worker along.
    job = house.post("a cat", autoEnhance=False, steps=100)
    house.painting(job["id"])
    house.stop(server, signal.SIGKILL)
    house.wait_for(lambda: not house.alive(), "the worker to end", STOP_SECONDS)
    house.serve("--no-worker", ready=False)
    waiting = house.get(job["id"])
    assert (waiting["status"], waiting["retryCount"]) == ("pending", 1)
    assert house.files() == house.known_files()
    assert "Traceback" not in house.log.read_text()


def test_a_server_stops_in_time_while_its_worker_loads(another: Callable[..., Service]) -> None:
    house = another()
    server, _ = house.serve(ready=False)
    house.wait_for(lambda: house.alive("worker"), "the worker to begin")
    assert house.stop(server, signal.SIGINT) < STOP_SECONDS
    assert server.returncode == 0
    assert house.alive() == []
    assert "Traceback" not in house.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_with_clients_that_wait_stops_in_time(
    another: Callable[..., Service], number: signal.Signals
) -> None:
    house = another()
    server, _ = house.serve("--no-worker", ready=False)
    path = f"/api/v1/generations/{house.post('a cat', autoEnhance=False)['id']}"
    with (
        httpx.Client(base_url=house.url, trust_env=False, timeout=60) as client,
        ThreadPoolExecutor(1) as pool,
        client.stream("GET", f"{path}/events", headers={"X-API-Key": house.key}) as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines).startswith(("id:", "event:"))
        waiting = pool.submit(house.request, "GET", path, headers={"Prefer": "wait=60"})
        house.wait_for(waiting.running, "the client to wait")
        assert house.health().status_code == 503
        assert house.stop(server, number) < STOP_SECONDS
        assert server.returncode == 0
        # The stream may end well or be cut off.
        with contextlib.suppress(httpx.TransportError):
            assert all("failed" not in line for line in lines)
        # Answered with what there is, or cut off; but never with an invented failure.
        try:
            answer = waiting.result(10)
        except httpx.TransportError:
            answer = httpx.Response(200, json={"data": {"status": "pending"}})
        assert answer.status_code == 200
        assert answer.json()["data"]["status"] == "pending"
    assert "Traceback" not in house.log.read_text()


def test_a_host_may_be_given_by_its_name(another: Callable[..., Service]) -> None:
    house = another()
    _, said = house.serve("--host", "localhost", "--no-worker", ready=False)
    assert said.startswith(f"Banatie answers at http://localhost:{house.port}\n")
    assert httpx.get(f"http://localhost:{house.port}/openapi.json", trust_env=False).is_success
