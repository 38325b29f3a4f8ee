"""Workers that hang: one that is stopped, and one whose painting does not return."""

from __future__ import annotations

import os
import signal

from tests.support.faulty_service import FaultyService, is_alive

PLAIN = {"autoEnhance": False, "steps": 4}


def test_a_worker_that_is_stopped_is_named_and_replaced(own_service: FaultyService) -> None:
    own_service.stop(own_service.server)
    server = own_service.start_with_faults(
        "serve", shorten={"module": "banatie.supervisor", "name": "CHECK_SECONDS", "value": 1.5}
    )
    own_service.wait_for(lambda: own_service.health().status_code == 200, "serve", 90)
    [worker] = own_service.alive("worker")
    os.kill(worker, signal.SIGSTOP)
    job = own_service.post("a cat", **PLAIN)

    def named() -> bool:
        answer = own_service.health().json()
        return f"process {worker}) has not answered" in answer.get("error", {}).get("message", "")

    own_service.wait_for(named, "health to name the process", 60)
    own_service.wait_for(lambda: not is_alive(worker), "the worker to be killed", 60)
    assert own_service.wait_until_ended(job["id"], 120)["status"] == "success"
    assert own_service.health().status_code == 200
    os.kill(server, signal.SIGTERM)
    own_service.wait_until_exited(server)


def test_a_painting_that_never_returns_ends_its_worker_and_is_given_up(
    service: FaultyService,
) -> None:
    service.start_worker(
        hang_at_step={"step": 2, "word": "poison"},
        shorten={"module": "banatie.worker.process", "name": "HUNG_ON_CPU_SECONDS", "value": 3.0},
    )
    poison = service.post("a bottle of poison", **PLAIN)
    other = service.post("a cat", **PLAIN)
    bad, good = service.wait_until_all_ended([poison, other], 120)
    assert bad["status"] == "failed"
    assert "worker crashed" in bad["errorMessage"]
    assert good["status"] == "success"
    assert "the painting has made no progress for 3 s" in service.log.read_text()
    service.assert_files_match_records()


def test_a_picture_whose_saving_hangs_is_painted_by_a_new_worker(service: FaultyService) -> None:
    service.start_worker(
        hang_while_saving={"counter_file": service.counter_file()},
        shorten={"module": "banatie.worker.process", "name": "HUNG_SAVING_SECONDS", "value": 3.0},
    )
    jobs = [service.post("a cat", **PLAIN), service.post("a dog", **PLAIN)]
    ended = service.wait_until_all_ended(jobs, 120)
    assert {job["status"] for job in ended} == {"success"}
    assert max(job["retryCount"] for job in ended) == 1
    assert "saving a picture has made no progress for 3 s" in service.log.read_text()
    service.assert_files_match_records()
