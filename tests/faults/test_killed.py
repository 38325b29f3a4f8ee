"""Workers, and everything at once, killed at each moment of a generation's life."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

import httpx
import pytest

from tests.faults.conftest import FaultyService

PLAIN = {"autoEnhance": False, "steps": 4}


@pytest.mark.parametrize(
    ("wound", "retries"),
    [
        ({"die_while_enhancing": {}}, 1),
        ({"die_before_the_bell": {}}, 0),
        ({"die_at_step": {"step": 1}}, 1),
        ({"die_at_step": {"step": 4}}, 1),
        ({"die_while_encoding": {}}, 1),
        ({"die_in_the_file": {}}, 1),
        ({"die_before_the_row": {}}, 1),
        ({"die_after_the_row": {}}, 0),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_job_outlives_its_worker(house: FaultyService, wound: dict, retries: int) -> None:
    [(name, parameters)] = wound.items()
    house.hire_and_wait(**{name: {"tally": house.tally(), **parameters}})
    first = house.worker
    job = house.post("a red cat", prefer="respond-async", steps=4)
    [ended] = house.all_ended([job])
    house.wait_for(lambda: not _lives(house, first), "the wound to strike", 10)
    assert ended["status"] == "success"
    assert ended["retryCount"] == retries
    assert ended["warnings"] == []
    assert ended["prompt"] != ended["originalPrompt"]
    house.keep_hiring()
    house.paint("a dog")
    house.assert_tidy()


@pytest.mark.parametrize("wound", ["die_in_the_file", "die_before_the_row"])
def test_what_a_dead_worker_left_is_swept_although_its_job_is_gone(
    house: FaultyService, wound: str
) -> None:
    house.start_worker(**{wound: {"tally": house.tally()}})
    job = house.post("a cat", **PLAIN)
    house.wait_for(lambda: not house.worker_lives(), "the wound to strike")
    assert house.files() > house.known_files()
    house.request("DELETE", f"/api/v1/generations/{job['id']}")
    house.hire_and_wait()
    house.assert_tidy()


def test_a_job_that_kills_each_worker_is_given_up_and_the_others_are_made(
    house: FaultyService,
) -> None:
    house.start_worker(
        die_at_step={"tally": house.tally(), "step": 2, "times": 99, "word": "poison"}
    )
    poison = house.post("a bottle of poison", **PLAIN)
    others = [house.post("a cat", **PLAIN), house.post("a dog", prefer="respond-async", steps=1)]
    bad, *good = house.all_ended([poison, *others])
    assert bad["status"] == "failed"
    assert "worker" in bad["errorMessage"]
    assert bad["retryCount"] == 3
    assert [record["status"] for record in good] == ["success", "success"]
    house.assert_tidy()


def test_a_prompt_that_kills_the_language_model_is_painted_as_it_is(house: FaultyService) -> None:
    house.start_worker(die_while_enhancing={"tally": house.tally(), "times": 99, "word": "poison"})
    poison = house.post("a bottle of poison", prefer="respond-async", steps=2)
    other = house.post("a red cat", prefer="respond-async", steps=2)
    bad, good = house.all_ended([poison, other])
    assert bad["status"] == "success"
    assert bad["autoEnhance"] is True
    assert bad["prompt"] == "a bottle of poison"
    assert len(bad["warnings"]) == 1
    assert (good["status"], good["warnings"]) == ("success", [])
    house.assert_tidy()


def test_no_picture_fails_because_the_language_model_kills_every_worker(
    house: FaultyService,
) -> None:
    house.start_worker(die_while_enhancing={"tally": house.tally(), "times": 99})
    jobs = [house.post("a cat", prefer="respond-async", steps=2) for _ in range(3)]
    for record in house.all_ended(jobs):
        assert record["status"] == "success", record["errorMessage"]
        assert len(record["warnings"]) == 1
    house.assert_tidy()


def test_a_job_is_not_given_up_because_its_neighbours_kill_the_worker(house: FaultyService) -> None:
    """Those that are enhanced while it is painted, and those that are painted before it."""
    house.start_worker(
        die_while_enhancing={"tally": house.tally(), "times": 99, "word": "poison"},
        die_at_step={"tally": house.tally(), "step": 2, "times": 99, "word": "venom"},
    )
    jobs = [
        house.post(prompt, prefer="respond-async", steps=steps)
        for prompt, steps in (
            ("venom in a glass", 4),
            ("a cat", 50),
            ("a bottle of poison", 4),
            ("poison in a cup", 4),
            ("a dog", 4),
        )
    ]
    ended = house.all_ended(jobs)
    assert [record["status"] for record in ended] == ["failed", *["success"] * 4]
    house.assert_tidy()


def test_stopping_a_worker_is_not_held_against_its_job(house: FaultyService) -> None:
    house.start_worker()
    job = house.post("a cat", autoEnhance=False, steps=100)
    for _ in range(3):
        house.painting(job["id"])
        house.kill_worker(signal.SIGTERM)
        assert house.get(job["id"])["status"] == "pending"
        house.start_worker()
    [ended] = house.all_ended([job])
    assert (ended["status"], ended["retryCount"]) == ("success", 3)


def test_stopping_takes_at_most_one_step(house: FaultyService) -> None:
    tally = house.tally()
    house.hire_and_wait(count_steps={"tally": tally})
    job = house.post("a cat", autoEnhance=False, steps=100)
    steps = house.folder / tally
    house.wait_for(lambda: steps.exists() and steps.stat().st_size >= 10, "ten steps")
    house.request("POST", f"/api/v1/generations/{job['id']}/cancel")
    taken = steps.stat().st_size
    house.paint("a dog", steps=1)
    # The step it was in, one that may have begun between cancelling and counting, and the dog's.
    assert steps.stat().st_size <= taken + 3
    assert taken < 100


def test_everything_killed_at_once(build: Callable[..., FaultyService]) -> None:
    house = build()
    server = house._processes[-1]
    house.hire_and_wait()
    jobs = [house.post("a cat", prefer="respond-async", steps=3) for _ in range(3)]
    jobs.append(house.post("a dog", **PLAIN | {"steps": 60}))
    jobs += [house.post("a cat", prefer="respond-async", steps=3) for _ in range(3)]
    house.painting(jobs[3]["id"])
    server.kill()
    house.kill_worker(signal.SIGKILL)
    server.wait()
    house.serve("--no-worker", ready=False)
    assert [house.get(job["id"])["id"] for job in jobs] == [job["id"] for job in jobs]
    house.start_worker()
    ended = house.all_ended(jobs)
    assert [record["status"] for record in ended] == ["success"] * len(jobs)
    assert ended[3]["retryCount"] == 1
    house.assert_tidy()


def test_jobs_wait_for_a_worker_that_was_killed_before_it_took_them(house: FaultyService) -> None:
    house.start_worker()
    jobs = [house.post("a cat", prefer="respond-async", steps=2), house.post("a dog", **PLAIN)]
    house.kill_worker(signal.SIGKILL)
    jobs.append(house.post("a dog", **PLAIN))
    house.start_worker()
    assert [record["status"] for record in house.all_ended(jobs)] == ["success"] * 3
    house.assert_tidy()


def test_a_worker_goes_on_without_its_server(own: FaultyService) -> None:
    own.hire_and_wait()
    jobs = [own.post("a cat", autoEnhance=False, steps=60)]
    jobs += [own.post("a red cat", prefer="respond-async", steps=2) for _ in range(2)]
    own.painting(jobs[0]["id"])
    own.stop(own.server, signal.SIGKILL)
    own.wait_for(lambda: len(own.files()) == 3, "the pictures")
    own.serve("--no-worker", ready=False)
    ended = own.all_ended(jobs)
    assert [(r["status"], r["retryCount"]) for r in ended] == [("success", 0)] * 3
    own.assert_tidy()


def test_a_server_killed_before_it_rings_has_accepted_all_the_same(own: FaultyService) -> None:
    own.hire_and_wait()
    server = own.serve_wounded(die_before_the_bell={"tally": own.tally()})
    with pytest.raises(httpx.TransportError):
        own.post("a cat", **PLAIN)
    own.gone(server)
    own.wait_for(own.files, "the picture")
    own.serve("--no-worker", ready=False)
    [record] = own.records()
    assert (own.ended(record["id"])["status"], record["retryCount"]) == ("success", 0)


def test_serve_and_its_own_worker_killed(own: FaultyService) -> None:
    own.stop(own.server)
    own.serve()
    jobs = [own.post("a cat", autoEnhance=False, steps=100)]
    jobs += [own.post("a red cat", prefer="respond-async", steps=2) for _ in range(2)]
    own.painting(jobs[0]["id"])
    own.stop(own.server, signal.SIGKILL)
    own.wait_for(lambda: not own.alive(), "the worker to end", 20)
    own.serve("--no-worker", ready=False)
    own.start_worker()
    ended = own.all_ended(jobs)
    assert [record["status"] for record in ended] == ["success"] * 3
    assert ended[0]["retryCount"] == 1
    own.assert_tidy()


def test_kills_at_random_moments_lose_nothing(
    build: Callable[..., FaultyService], kills: int
) -> None:
    house = build(worker__max_retries=str(kills))
    chance = random.Random(7)
    jobs = []
    for _ in range(kills):
        house.start_worker()
        jobs += [
            house.post("a red cat", prefer="respond-async", steps=chance.randint(1, 40)),
            house.post("a dog", autoEnhance=False, steps=chance.randint(1, 40)),
        ]
        doomed = chance.choice(jobs)
        for job in (chance.choice(jobs), doomed):
            answer = house.request("POST", f"/api/v1/generations/{job['id']}/cancel")
            assert answer.status_code in (200, 404)
        house.request("DELETE", f"/api/v1/generations/{doomed['id']}")
        jobs = [job for job in jobs if job["id"] != doomed["id"]]
        begun = chance.choice(jobs[-2:])["id"]
        house.record_when(begun, lambda record: record["status"] != "pending")
        time.sleep(chance.random() / 5)
        house.kill_worker(signal.SIGKILL)
    house.start_worker()
    for record in house.all_ended(jobs):
        assert record["status"] == "success" or record["errorMessage"] == "Cancelled"
    house.kill_worker(signal.SIGTERM)
    house.hire_and_wait()
    house.assert_tidy()


def _lives(house: FaultyService, worker: int | None) -> bool:
    return worker == house.worker and house.worker_lives()
