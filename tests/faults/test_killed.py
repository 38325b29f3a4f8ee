"""Workers, servers and both at once, killed at each stage of a generation."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

import httpx
import pytest

from tests.support.faulty_service import FaultyService

PLAIN = {"autoEnhance": False, "steps": 4}


@pytest.mark.parametrize(
    ("fault", "retries"),
    [
        ({"die_while_enhancing": {}}, 1),
        ({"die_before_notify": {}}, 0),
        ({"die_at_step": {"step": 1}}, 1),
        ({"die_at_step": {"step": 4}}, 1),
        ({"die_while_encoding": {}}, 1),
        ({"die_before_rename": {}}, 1),
        ({"die_before_success_row": {}}, 1),
        ({"die_after_success_row": {}}, 0),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_job_outlives_its_worker(service: FaultyService, fault: dict, retries: int) -> None:
    [(name, parameters)] = fault.items()
    service.start_worker_and_wait(**{name: {"counter_file": service.counter_file(), **parameters}})
    first = service.worker
    job = service.post("a red cat", prefer="respond-async", steps=4)
    [ended] = service.wait_until_all_ended([job])
    service.wait_for(
        lambda: service.worker != first or not service.worker_is_alive(),
        "the worker to be killed",
        10,
    )
    assert ended["status"] == "success"
    assert ended["retryCount"] == retries
    assert ended["warnings"] == []
    assert ended["prompt"] != ended["originalPrompt"]
    service.restart_dead_worker()
    service.paint("a dog")
    service.assert_files_match_records()


@pytest.mark.parametrize("fault", ["die_before_rename", "die_before_success_row"])
def test_what_a_dead_worker_left_is_swept_although_its_job_is_gone(
    service: FaultyService, fault: str
) -> None:
    service.start_worker(**{fault: {"counter_file": service.counter_file()}})
    job = service.post("a cat", **PLAIN)
    service.wait_for(lambda: not service.worker_is_alive(), "the worker to be killed")
    assert service.files() > service.known_files()
    service.request("DELETE", f"/api/v1/generations/{job['id']}")
    service.start_worker_and_wait()
    service.assert_files_match_records()


def test_a_job_that_kills_each_worker_is_given_up_and_the_others_are_made(
    service: FaultyService,
) -> None:
    service.start_worker(
        die_at_step={
            "counter_file": service.counter_file(),
            "step": 2,
            "times": 99,
            "word": "poison",
        }
    )
    poison = service.post("a bottle of poison", **PLAIN)
    others = [
        service.post("a cat", **PLAIN),
        service.post("a dog", prefer="respond-async", steps=1),
    ]
    bad, *good = service.wait_until_all_ended([poison, *others])
    assert bad["status"] == "failed"
    assert "worker" in bad["errorMessage"]
    assert bad["retryCount"] == 3
    assert [record["status"] for record in good] == ["success", "success"]
    service.assert_files_match_records()


def test_a_prompt_that_kills_the_language_model_is_painted_as_it_is(service: FaultyService) -> None:
    service.start_worker(
        die_while_enhancing={"counter_file": service.counter_file(), "times": 99, "word": "poison"}
    )
    poison = service.post("a bottle of poison", prefer="respond-async", steps=2)
    other = service.post("a red cat", prefer="respond-async", steps=2)
    bad, good = service.wait_until_all_ended([poison, other])
    assert bad["status"] == "success"
    assert bad["autoEnhance"] is True
    assert bad["prompt"] == "a bottle of poison"
    assert len(bad["warnings"]) == 1
    assert (good["status"], good["warnings"]) == ("success", [])
    service.assert_files_match_records()


def test_no_picture_fails_because_the_language_model_kills_every_worker(
    service: FaultyService,
) -> None:
    service.start_worker(die_while_enhancing={"counter_file": service.counter_file(), "times": 99})
    jobs = [service.post("a cat", prefer="respond-async", steps=2) for _ in range(3)]
    for record in service.wait_until_all_ended(jobs):
        assert record["status"] == "success", record["errorMessage"]
        assert len(record["warnings"]) == 1
    service.assert_files_match_records()


def test_a_job_is_not_given_up_because_its_neighbours_kill_the_worker(
    service: FaultyService,
) -> None:
    """Neighbours are enhanced while it is painted, or painted before it."""
    service.start_worker(
        die_while_enhancing={"counter_file": service.counter_file(), "times": 99, "word": "poison"},
        die_at_step={
            "counter_file": service.counter_file(),
            "step": 2,
            "times": 99,
            "word": "venom",
        },
    )
    jobs = [
        service.post(prompt, prefer="respond-async", steps=steps)
        for prompt, steps in (
            ("venom in a glass", 4),
            ("a cat", 50),
            ("a bottle of poison", 4),
            ("poison in a cup", 4),
            ("a dog", 4),
        )
    ]
    ended = service.wait_until_all_ended(jobs)
    assert [record["status"] for record in ended] == ["failed", *["success"] * 4]
    service.assert_files_match_records()


def test_stopping_a_worker_is_not_held_against_its_job(service: FaultyService) -> None:
    service.start_worker()
    job = service.post("a cat", autoEnhance=False, steps=100)
    for _ in range(3):
        service.wait_until_painting(job["id"])
        service.kill_worker(signal.SIGTERM)
        assert service.get(job["id"])["status"] == "pending"
        service.start_worker()
    [ended] = service.wait_until_all_ended([job])
    assert (ended["status"], ended["retryCount"]) == ("success", 3)


def test_stopping_takes_at_most_one_step(service: FaultyService) -> None:
    counter_file = service.counter_file()
    service.start_worker_and_wait(count_steps={"counter_file": counter_file})
    job = service.post("a cat", autoEnhance=False, steps=100)
    steps = service.folder / counter_file
    service.wait_for(lambda: steps.exists() and steps.stat().st_size >= 10, "ten steps")
    service.request("POST", f"/api/v1/generations/{job['id']}/cancel")
    taken = steps.stat().st_size
    service.paint("a dog", steps=1)
    # The current step, one that may have begun between cancelling and counting, and the dog's.
    assert steps.stat().st_size <= taken + 3
    assert taken < 100


def test_everything_killed_at_once(new_service: Callable[..., FaultyService]) -> None:
    service = new_service()
    server = service.server
    service.start_worker_and_wait()
    jobs = [service.post("a cat", prefer="respond-async", steps=3) for _ in range(3)]
    jobs.append(service.post("a dog", **PLAIN | {"steps": 60}))
    jobs += [service.post("a cat", prefer="respond-async", steps=3) for _ in range(3)]
    service.wait_until_painting(jobs[3]["id"])
    server.kill()
    service.kill_worker(signal.SIGKILL)
    server.wait()
    service.serve("--no-worker", ready=False)
    assert [service.get(job["id"])["id"] for job in jobs] == [job["id"] for job in jobs]
    service.start_worker()
    ended = service.wait_until_all_ended(jobs)
    assert [record["status"] for record in ended] == ["success"] * len(jobs)
    assert ended[3]["retryCount"] == 1
    service.assert_files_match_records()


def test_jobs_wait_for_a_worker_that_was_killed_before_it_took_them(service: FaultyService) -> None:
    service.start_worker()
    jobs = [service.post("a cat", prefer="respond-async", steps=2), service.post("a dog", **PLAIN)]
    service.kill_worker(signal.SIGKILL)
    jobs.append(service.post("a dog", **PLAIN))
    service.start_worker()
    assert [record["status"] for record in service.wait_until_all_ended(jobs)] == ["success"] * 3
    service.assert_files_match_records()


def test_a_worker_goes_on_without_its_server(own_service: FaultyService) -> None:
    own_service.start_worker_and_wait()
    jobs = [own_service.post("a cat", autoEnhance=False, steps=60)]
    jobs += [own_service.post("a red cat", prefer="respond-async", steps=2) for _ in range(2)]
    own_service.wait_until_painting(jobs[0]["id"])
    own_service.stop(own_service.server, signal.SIGKILL)
    own_service.wait_for(lambda: len(own_service.files()) == 3, "the pictures")
    own_service.serve("--no-worker", ready=False)
    ended = own_service.wait_until_all_ended(jobs)
    assert [(r["status"], r["retryCount"]) for r in ended] == [("success", 0)] * 3
    own_service.assert_files_match_records()


def test_a_server_killed_before_it_rings_has_accepted_all_the_same(
    own_service: FaultyService,
) -> None:
    own_service.start_worker_and_wait()
    server = own_service.serve_with_faults(
        die_before_notify={"counter_file": own_service.counter_file()}
    )
    with pytest.raises(httpx.TransportError):
        own_service.post("a cat", **PLAIN)
    own_service.wait_until_exited(server)
    own_service.wait_for(own_service.files, "the picture")
    own_service.serve("--no-worker", ready=False)
    [record] = own_service.records()
    assert (own_service.wait_until_ended(record["id"])["status"], record["retryCount"]) == (
        "success",
        0,
    )


def test_serve_and_its_own_worker_killed(own_service: FaultyService) -> None:
    own_service.stop(own_service.server)
    own_service.serve()
    jobs = [own_service.post("a cat", autoEnhance=False, steps=100)]
    jobs += [own_service.post("a red cat", prefer="respond-async", steps=2) for _ in range(2)]
    own_service.wait_until_painting(jobs[0]["id"])
    own_service.stop(own_service.server, signal.SIGKILL)
    own_service.wait_for(lambda: not own_service.alive(), "the worker to end", 20)
    own_service.serve("--no-worker", ready=False)
    own_service.start_worker()
    ended = own_service.wait_until_all_ended(jobs)
    assert [record["status"] for record in ended] == ["success"] * 3
    assert ended[0]["retryCount"] == 1
    own_service.assert_files_match_records()


def test_kills_at_random_moments_lose_nothing(
    new_service: Callable[..., FaultyService], kills: int
) -> None:
    service = new_service(worker__max_retries=str(kills))
    generator = random.Random(7)
    jobs = []
    for _ in range(kills):
        service.start_worker()
        jobs += [
            service.post("a red cat", prefer="respond-async", steps=generator.randint(1, 40)),
            service.post("a dog", autoEnhance=False, steps=generator.randint(1, 40)),
        ]
        doomed = generator.choice(jobs)
        for job in (generator.choice(jobs), doomed):
            answer = service.request("POST", f"/api/v1/generations/{job['id']}/cancel")
            assert answer.status_code in (200, 404)
        service.request("DELETE", f"/api/v1/generations/{doomed['id']}")
        jobs = [job for job in jobs if job["id"] != doomed["id"]]
        started = generator.choice(jobs[-2:])["id"]
        service.wait_for_record(started, lambda record: record["status"] != "pending")
        # Not a wait for anything: the random moment of the kill.
        time.sleep(generator.random() / 5)
        service.kill_worker(signal.SIGKILL)
    service.start_worker()
    for record in service.wait_until_all_ended(jobs):
        assert record["status"] == "success" or record["errorMessage"] == "Cancelled"
    service.kill_worker(signal.SIGTERM)
    service.start_worker_and_wait()
    service.assert_files_match_records()
