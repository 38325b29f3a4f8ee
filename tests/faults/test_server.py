"""Faults of the server: a locked database, a wrong clock, many clients, clients that disconnect."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support import many_clients
from tests.support.faulty_service import FaultyService

PLAIN = {"autoEnhance": False, "steps": 2}
HOUR_MILLISECONDS = 3_600_000


def test_a_locked_database_delays_what_is_written_and_nothing_else(
    own_service: FaultyService, locked_seconds: int
) -> None:
    own_service.start_worker_and_wait()
    before = own_service.paint("a red cat")
    jobs = [
        own_service.post("a cat", autoEnhance=False, steps=100),
        own_service.post("a dog", **PLAIN),
    ]
    own_service.wait_until_painting(jobs[0]["id"])
    with ThreadPoolExecutor(12) as pool:
        with _locked(own_service.data / "banatie.db"):
            until = time.monotonic() + locked_seconds
            # More than the server has threads for reading.
            posts = [pool.submit(_try_post, own_service) for _ in range(12)]
            own_service.wait_for(
                lambda: all(post.running() for post in posts), "the requests to be sent"
            )
            while time.monotonic() < until:
                # Reads are answered while the lock is held, or never.
                assert own_service.get(before["id"]) == before
                assert (
                    own_service.request("GET", "/api/v1/generations?status=success").status_code
                    == 200
                )
                assert own_service.picture(before)
                assert own_service.health().status_code in (200, 503)
        answers = [post.result() for post in posts]
    accepted = [answer["data"] for status, answer in answers if status == 201]
    assert {status for status, _ in answers} <= {201, 503}
    ended = own_service.wait_until_all_ended([*jobs, *accepted])
    assert {record["status"] for record in ended} == {"success"}
    assert len(own_service.records()) == len(ended) + 1
    own_service.wait_for(
        lambda: own_service.health().status_code == 200, "the service to be healthy again"
    )
    own_service.assert_files_match_records()


def _try_post(service: FaultyService) -> tuple[int, dict]:
    body = {"prompt": "a cat", **PLAIN}
    response = service.request("POST", "/api/v1/generations", json=body, timeout=120)
    return response.status_code, response.json()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the database."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_by_an_hour_changes_nothing(
    new_service: Callable[..., FaultyService], hours: int
) -> None:
    service = new_service(limits__requests_per_hour="1000")
    clock = service.folder / "clock"
    clock.write_text("0")
    service.serve_with_faults(follow_clock={"file": str(clock)})
    service.start_worker_and_wait(follow_clock={"file": str(clock)})
    first = service.paint("a red cat")
    job = service.post("a cat", autoEnhance=False, steps=100)
    waiting = service.post("a dog", prefer="respond-async", steps=2)
    once = {"headers": {"Idempotency-Key": "once"}, "json": {"prompt": "a dog", **PLAIN}}
    answer = service.request("POST", "/api/v1/generations", **once).json()
    service.wait_until_painting(job["id"])

    clock.write_text(str(hours * HOUR_MILLISECONDS))
    assert service.request("POST", "/api/v1/generations", **once).json() == answer
    later = service.paint("a red cat")
    ended = service.wait_until_all_ended([job, waiting, answer["data"], later])
    assert [record["status"] for record in ended] == ["success"] * 4
    assert all(0 <= record["processingTimeMs"] < HOUR_MILLISECONDS for record in ended)
    service.wait_for(lambda: service.health().status_code == 200, "the service to be healthy")
    assert service.get(first["id"]) == first
    assert {record["id"] for record in service.records()} == {r["id"] for r in [first, *ended]}
    # The death of a worker is noticed, whatever the time in its row.
    last = service.post("a cat", autoEnhance=False, steps=100)
    service.wait_until_painting(last["id"])
    service.kill_worker()
    service.start_worker(follow_clock={"file": str(clock)})
    assert service.wait_until_all_ended([last])[0]["status"] == "success"
    service.assert_files_match_records()


def test_five_hundred_clients_that_wait_are_all_answered(own_service: FaultyService) -> None:
    jobs = [own_service.post("a cat", **PLAIN)["id"] for _ in range(8)]
    before = many_clients.connections(own_service.server.pid)
    requests = [many_clients.waiting(own_service, jobs[number % 8]) for number in range(240)]
    requests += [many_clients.following(own_service, jobs[number % 8]) for number in range(240)]
    requests += [many_clients.submitting(own_service, "a dog", **PLAIN) for _ in range(20)]

    def meanwhile() -> None:
        # While all of them wait, other requests are answered.
        assert own_service.get(jobs[0])["status"] == "pending"
        own_service.start_worker()

    answers = many_clients.answers(own_service, requests, meanwhile)
    assert len(answers) == 500
    for answer in answers[:240]:
        assert answer.startswith("HTTP/1.1 200 ")
        assert '"status":"success"' in answer
    for answer in answers[240:480]:
        assert answer.startswith("HTTP/1.1 200 ")
        assert answer.count("event: success\r\n") == 1
    for answer in answers[480:]:
        assert answer.startswith("HTTP/1.1 201 ")
        assert '"status":"success"' in answer
    own_service.wait_for(
        lambda: many_clients.connections(own_service.server.pid) <= before, "the connections to end"
    )
    assert len(own_service.wait_until_all_ended(own_service.records())) == 28
    own_service.assert_files_match_records()


def test_clients_that_go_away_leave_nothing_behind_but_their_jobs(
    own_service: FaultyService,
) -> None:
    job = own_service.post("a cat", **PLAIN)
    before = many_clients.connections(own_service.server.pid)
    requests = [many_clients.waiting(own_service, job["id"]) for _ in range(15)]
    requests += [many_clients.following(own_service, job["id"]) for _ in range(15)]
    requests += [many_clients.submitting(own_service, "a dog", **PLAIN) for _ in range(15)]
    many_clients.disconnect(own_service, requests)
    own_service.wait_for(
        lambda: many_clients.connections(own_service.server.pid) <= before, "the connections to end"
    )
    own_service.wait_for(lambda: len(own_service.records()) == 16, "the submissions")
    own_service.start_worker_and_wait()
    assert {
        record["status"] for record in own_service.wait_until_all_ended(own_service.records())
    } == {"success"}
    own_service.assert_files_match_records()
    assert "Traceback" not in own_service.log.read_text()
