"""What befalls the server: a locked database, a wrong clock, too many clients, and fickle ones."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import FaultyService
from tests.support import many_clients

PLAIN = {"autoEnhance": False, "steps": 2}
HOUR_MILLISECONDS = 3_600_000


def test_a_locked_database_delays_what_is_written_and_nothing_else(
    own: FaultyService, locked_seconds: int
) -> None:
    own.hire_and_wait()
    before = own.paint("a red cat")
    jobs = [own.post("a cat", autoEnhance=False, steps=100), own.post("a dog", **PLAIN)]
    own.painting(jobs[0]["id"])
    with ThreadPoolExecutor(12) as pool:
        with _locked(own.data / "banatie.db"):
            until = time.monotonic() + locked_seconds
            # More of them than the server has threads.
            posts = [pool.submit(_try_post, own) for _ in range(12)]
            own.wait_for(lambda: all(post.running() for post in posts), "the requests to be sent")
            while True:
                # Those that read are answered while the lock is held, or never.
                assert own.get(before["id"]) == before
                assert own.request("GET", "/api/v1/generations?status=success").status_code == 200
                assert own.picture(before)
                assert own.health().status_code in (200, 503)
                if time.monotonic() > until:
                    break
                time.sleep(0.1)
        answers = [post.result() for post in posts]
    accepted = [answer["data"] for status, answer in answers if status == 201]
    assert {status for status, _ in answers} <= {201, 503}
    ended = own.all_ended([*jobs, *accepted])
    assert {record["status"] for record in ended} == {"success"}
    assert len(own.records()) == len(ended) + 1
    own.wait_for(lambda: own.health().status_code == 200, "the service to be healthy again")
    own.assert_tidy()


def _try_post(house: FaultyService) -> tuple[int, dict]:
    body = {"prompt": "a cat", **PLAIN}
    response = house.request("POST", "/api/v1/generations", json=body, timeout=120)
    return response.status_code, response.json()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The database, while nobody else may write to it."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_by_an_hour_changes_nothing(
    build: Callable[..., FaultyService], hours: int
) -> None:
    house = build(limits__requests_per_hour="1000")
    clock = house.folder / "clock"
    clock.write_text("0")
    house.serve_wounded(follow_clock={"file": str(clock)})
    house.hire_and_wait(follow_clock={"file": str(clock)})
    first = house.paint("a red cat")
    job = house.post("a cat", autoEnhance=False, steps=100)
    waiting = house.post("a dog", prefer="respond-async", steps=2)
    once = {"headers": {"Idempotency-Key": "once"}, "json": {"prompt": "a dog", **PLAIN}}
    answer = house.request("POST", "/api/v1/generations", **once).json()
    house.painting(job["id"])

    clock.write_text(str(hours * HOUR_MILLISECONDS))
    assert house.request("POST", "/api/v1/generations", **once).json() == answer
    later = house.paint("a red cat")
    ended = house.all_ended([job, waiting, answer["data"], later])
    assert [record["status"] for record in ended] == ["success"] * 4
    assert all(0 <= record["processingTimeMs"] < HOUR_MILLISECONDS for record in ended)
    house.wait_for(lambda: house.health().status_code == 200, "the service to be healthy")
    assert house.get(first["id"]) == first
    assert {record["id"] for record in house.records()} == {r["id"] for r in [first, *ended]}
    # A worker that dies now is missed, and its job made, whatever time its row was written at.
    last = house.post("a cat", autoEnhance=False, steps=100)
    house.painting(last["id"])
    house.kill_worker()
    house.start_worker(follow_clock={"file": str(clock)})
    assert house.all_ended([last])[0]["status"] == "success"
    house.assert_tidy()


def test_five_hundred_clients_that_wait_are_all_answered(own: FaultyService) -> None:
    jobs = [own.post("a cat", **PLAIN)["id"] for _ in range(8)]
    before = many_clients.connections(own.server.pid)
    requests = [many_clients.waiting(own, jobs[number % 8]) for number in range(240)]
    requests += [many_clients.following(own, jobs[number % 8]) for number in range(240)]
    requests += [many_clients.submitting(own, "a dog", **PLAIN) for _ in range(20)]

    def meanwhile() -> None:
        # With all of them waiting, others are answered.
        assert own.get(jobs[0])["status"] == "pending"
        own.start_worker()

    answers = many_clients.answers(own, requests, meanwhile)
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
    own.wait_for(
        lambda: many_clients.connections(own.server.pid) <= before, "the connections to end"
    )
    assert len(own.all_ended(own.records())) == 28
    own.assert_tidy()


def test_clients_that_go_away_leave_nothing_behind_but_their_jobs(own: FaultyService) -> None:
    job = own.post("a cat", **PLAIN)
    before = many_clients.connections(own.server.pid)
    requests = [many_clients.waiting(own, job["id"]) for _ in range(15)]
    requests += [many_clients.following(own, job["id"]) for _ in range(15)]
    requests += [many_clients.submitting(own, "a dog", **PLAIN) for _ in range(15)]
    many_clients.leave(own, requests)
    own.wait_for(
        lambda: many_clients.connections(own.server.pid) <= before, "the connections to end"
    )
    own.wait_for(lambda: len(own.records()) == 16, "the submissions")
    own.hire_and_wait()
    assert {record["status"] for record in own.all_ended(own.records())} == {"success"}
    own.assert_tidy()
    assert "Traceback" not in own.log.read_text()
