"""A service's life: the first start, the next ones, and the ways to stop it."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from textwrap import dedent

import httpx
import pytest

from tests.support.service import Service

STOP_SECONDS = 5.0


def test_the_first_start_says_all_that_a_picture_takes(service: Service, first_output: str) -> None:
    address, _, rest = first_output.partition("\n")
    assert address == f"Banatie answers at {service.url}"
    assert re.search(rf"^ +{service.key}$", rest, re.MULTILINE)
    assert re.fullmatch(r"bnt_[A-Za-z0-9_-]+", service.key)
    command = dedent(rest[rest.index("    curl") :].partition("\n\n")[0])
    pasted = subprocess.run(
        ["bash", "-c", command], capture_output=True, env=service.environment, timeout=30
    )
    assert pasted.returncode == 0
    answer = httpx.Response(201, content=pasted.stdout).json()
    assert answer["success"] is True
    assert answer["data"]["originalPrompt"] == "a red sports car on a mountain road"
    assert service.wait_until_ended(answer["data"]["id"])["status"] == "success"


def test_the_first_request_waits_for_the_models(new_service: Callable[..., Service]) -> None:
    service = new_service(enhancement__response_wait="3")
    _, said = service.serve(ready=False)
    output = service.folder / "output-0.txt"
    assert "Ready" not in said
    service.wait_for(
        lambda: service.health().json()["data"]["worker"] == "starting", "the models to load"
    )
    # Loading alone may take longer than the settings say to wait.
    record = service.post("a red sports car on a mountain road")
    assert record["prompt"] != record["originalPrompt"]
    assert record["warnings"] == []
    service.wait_for(lambda: "\nReady: tiny-sdxl paints on cpu\n" in output.read_text(), "the line")
    assert "\nLoading the models." in output.read_text()


def test_a_start_that_cannot_become_ready_says_so(new_service: Callable[..., Service]) -> None:
    service = new_service(painting__model="no-such-model")
    service.serve(ready=False)
    output = service.folder / "output-0.txt"
    said = "\nNot ready: The model 'no-such-model' cannot be used"
    service.wait_for(lambda: said in output.read_text(), "the line")


def test_nothing_is_lost_however_the_service_ends(new_service: Callable[..., Service]) -> None:
    """One data folder through a stop in the middle, a crash and a kill."""
    service = new_service()
    server, _ = service.serve()
    jobs = [service.post("a cat", autoEnhance=False, steps=100), service.post("a dog", steps=2)]
    service.wait_until_painting(jobs[0]["id"])

    # SIGTERM in the middle of a picture.
    assert service.stop(server, signal.SIGTERM) < STOP_SECONDS
    assert server.returncode == 0
    assert service.alive() == []

    # Started again, it shows no key and processes what waited.
    server, said = service.serve()
    assert said.startswith(f"Banatie answers at {service.url}\nLoading the models.")
    for job in jobs:
        assert service.wait_until_ended(job["id"])["status"] == "success"
    assert service.get(jobs[0]["id"])["retryCount"] == 1

    # A killed worker is restarted.
    job = service.post("a cat", autoEnhance=False, steps=100)
    service.wait_until_painting(job["id"])
    [worker] = service.alive("banatie", "worker")
    subprocess.run(["kill", "-KILL", str(worker)], check=True)
    ended = service.wait_until_ended(job["id"], 90)
    assert (ended["status"], ended["retryCount"]) == ("success", 1)
    assert service.health().status_code == 200

    # The worker of a killed server exits.
    job = service.post("a cat", autoEnhance=False, steps=100)
    service.wait_until_painting(job["id"])
    service.stop(server, signal.SIGKILL)
    service.wait_for(lambda: not service.alive(), "the worker to end", STOP_SECONDS)
    service.serve("--no-worker", ready=False)
    waiting = service.get(job["id"])
    assert (waiting["status"], waiting["retryCount"]) == ("pending", 1)
    assert service.files() == service.known_files()
    assert "Traceback" not in service.log.read_text()


def test_a_server_stops_in_time_while_its_worker_loads(new_service: Callable[..., Service]) -> None:
    service = new_service()
    server, _ = service.serve(ready=False)
    service.wait_for(lambda: service.alive("worker"), "the worker to begin")
    assert service.stop(server, signal.SIGINT) < STOP_SECONDS
    assert server.returncode == 0
    assert service.alive() == []
    assert "Traceback" not in service.log.read_text()


def test_a_server_stops_in_time_while_clients_send(new_service: Callable[..., Service]) -> None:
    service = new_service()
    server, _ = service.serve("--no-worker", ready=False)
    head = (
        f"POST /api/v1/generations HTTP/1.1\r\nHost: x\r\nX-API-Key: {service.key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    )
    with contextlib.ExitStack() as stack:
        for number in range(10):
            address = ("127.0.0.1", service.port)
            sending = stack.enter_context(socket.create_connection(address, timeout=20))
            sending.sendall(head.encode() + b'{"prompt"')
            if number % 2:
                # It hangs up in the middle of its request.
                sending.close()
        # Requests are read in the order of their connections, so that they are all in by now.
        assert service.health().status_code == 503
        assert service.stop(server) < STOP_SECONDS
    assert server.returncode == 0
    log = service.log.read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_with_clients_that_wait_stops_in_time(
    new_service: Callable[..., Service], number: signal.Signals
) -> None:
    service = new_service()
    server, _ = service.serve("--no-worker", ready=False)
    path = f"/api/v1/generations/{service.post('a cat', autoEnhance=False)['id']}"
    with (
        httpx.Client(base_url=service.url, trust_env=False, timeout=60) as client,
        ThreadPoolExecutor(1) as pool,
        client.stream("GET", f"{path}/events", headers={"X-API-Key": service.key}) as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines).startswith(("id:", "event:"))
        waiting = pool.submit(service.request, "GET", path, headers={"Prefer": "wait=60"})
        service.wait_for(waiting.running, "the client to wait")
        assert service.health().status_code == 503
        assert service.stop(server, number) < STOP_SECONDS
        assert server.returncode == 0
        # The stream may end properly or be cut off.
        with contextlib.suppress(httpx.TransportError):
            assert all("failed" not in line for line in lines)
        # Answered with the record as it is, or cut off; but never with an invented failure.
        try:
            answer = waiting.result(10)
        except httpx.TransportError:
            answer = httpx.Response(200, json={"data": {"status": "pending"}})
        assert answer.status_code == 200
        assert answer.json()["data"]["status"] == "pending"
    assert "Traceback" not in service.log.read_text()


def test_a_host_may_be_given_by_its_name(new_service: Callable[..., Service]) -> None:
    service = new_service()
    _, said = service.serve("--host", "localhost", "--no-worker", ready=False)
    assert said.startswith(f"Banatie answers at http://localhost:{service.port}\n")
    assert httpx.get(f"http://localhost:{service.port}/openapi.json", trust_env=False).is_success
