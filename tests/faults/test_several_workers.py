"""Several workers on one data folder, killed and added while they work."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing

from banatie.store.database import Database
from banatie.store.workers import Workers
from tests.support.faulty_service import FaultyService, is_alive

PLAIN = {"autoEnhance": False, "steps": 2}


def test_workers_killed_and_added_paint_every_picture_once(
    new_service: Callable[..., FaultyService], kills: int
) -> None:
    service = new_service(worker__max_retries=str(kills), log__format="json")
    count, generator = max(60, 6 * kills), random.Random(11)
    workers = [_add_worker(service) for _ in range(3)]
    jobs: list[dict] = []
    for number in range(kills):
        first = len(jobs)
        while len(jobs) < count * (number + 1) // kills:
            enhanced = len(jobs) % 10 == 0
            steps = generator.randint(1, 12)
            prefer = "respond-async" if enhanced else ""
            jobs.append(service.post("a red cat", prefer=prefer, autoEnhance=enhanced, steps=steps))
        service.wait_for_record(jobs[first]["id"], lambda record: record["status"] != "pending")
        # Not a wait for anything: the random moment of the kill.
        time.sleep(generator.random() / 5)
        victim = workers.pop(generator.randrange(len(workers)))
        os.kill(victim, signal.SIGKILL)
        workers.append(_add_worker(service))
    records = _wait_until_all_ended(service, 60 + count)
    assert len(records) == len(jobs) == count
    assert {record["status"] for record in records} == {"success"}
    assert [record["warnings"] for record in records] == [[]] * count
    # A worker works on two at once: it enhances one and paints the other.
    assert sum(record["retryCount"] for record in records) <= 2 * kills
    # Orphaned files of the dead workers are deleted by the living ones.
    service.wait_for(
        lambda: service.files() == service.known_files(), "the orphaned files to be deleted"
    )
    assert len(service.files()) == count
    service.assert_files_match_records()
    ended = 'banatie_generations_ended_total{reason="",status="success"} '
    assert f"{ended}{count}.0" in service.request("GET", "/metrics").text
    started, finished = _count_log_lines(service, "painting"), _count_log_lines(service, "finished")
    assert set(finished.values()) == {1}
    for record in records:
        # No worker started a job that another one held: it was requeued before each next start.
        assert started[record["id"]] <= record["retryCount"] + 1
    assert all(is_alive(worker) for worker in workers)


def test_what_a_killed_worker_had_in_hand_is_taken_over_by_another(
    own_service: FaultyService,
) -> None:
    _add_ready_workers(own_service, 2)
    jobs = [own_service.post("a cat", autoEnhance=False, steps=100) for _ in range(2)]
    for job in jobs:
        own_service.wait_until_painting(job["id"])
    holders = _holders(own_service)
    lost, kept = jobs
    os.kill(holders[lost["id"]], signal.SIGKILL)
    # No worker is started in its place.
    lost, kept = (own_service.wait_until_ended(job["id"]) for job in (lost, kept))
    assert (lost["status"], lost["retryCount"]) == ("success", 1)
    assert (kept["status"], kept["retryCount"]) == ("success", 0)
    own_service.assert_files_match_records()
    assert [worker["state"] for worker in _workers(own_service)] == ["ready"]


def test_a_job_that_kills_workers_costs_the_others_nothing(own_service: FaultyService) -> None:
    counter_file = own_service.counter_file()

    def add_worker() -> int:
        fault = {"counter_file": counter_file, "step": 2, "times": 99, "word": "poison"}
        return _add_worker(own_service, die_at_step=fault)

    workers = [add_worker(), add_worker()]
    own_service.wait_for(lambda: _ready(own_service) == 2, "two workers to be ready")
    others = [own_service.post("a cat", autoEnhance=False, steps=20) for _ in range(4)]
    poison = own_service.post("a bottle of poison", **PLAIN)
    others += [own_service.post("a cat", autoEnhance=False, steps=20) for _ in range(4)]

    def abandoned() -> bool:
        for number, worker in enumerate(workers):
            if not is_alive(worker):
                workers[number] = add_worker()
        return own_service.get(poison["id"])["status"] == "failed"

    own_service.wait_for(abandoned, "the poison to be abandoned")
    assert own_service.get(poison["id"])["retryCount"] == 3
    records = _wait_until_all_ended(own_service)
    rest = [record for record in records if record["id"] != poison["id"]]
    assert [(r["status"], r["retryCount"]) for r in rest] == [("success", 0)] * len(others)
    own_service.assert_files_match_records()


def test_when_the_language_models_worker_dies_another_takes_it(own_service: FaultyService) -> None:
    # The first has the language model, and dies on the first prompt.
    _add_worker(own_service, die_while_enhancing={"counter_file": own_service.counter_file()})
    own_service.wait_for(lambda: _ready(own_service) == 1, "the first worker")
    _add_ready_workers(own_service, 2)
    assert _enhancers(own_service) == 1
    painting = [own_service.post("a cat", autoEnhance=False, steps=60) for _ in range(3)]
    for job in painting:
        own_service.wait_until_painting(job["id"])
    prompt = own_service.post("a red cat", prefer="respond-async", steps=2)
    ended = own_service.wait_until_ended(prompt["id"])
    assert (ended["status"], ended["warnings"], ended["retryCount"]) == ("success", [], 1)
    assert ended["prompt"] != ended["originalPrompt"]
    assert {record["status"] for record in _wait_until_all_ended(own_service)} == {"success"}
    # The jobs of the other two stayed with them.
    retries = sorted(own_service.get(job["id"])["retryCount"] for job in painting)
    assert retries[:2] == [0, 0]
    own_service.wait_for(
        lambda: len(_workers(own_service)) == 2, "the dead worker's row to be removed"
    )
    assert _enhancers(own_service) == 1
    assert own_service.health().json()["data"]["models"]["enhancement"]


def test_a_worker_whose_device_is_not_there_takes_nobody_down(own_service: FaultyService) -> None:
    _add_worker(own_service, device="cuda:7")
    own_service.wait_for(
        lambda: own_service.health().json()["data"]["worker"] == "broken",
        "it to report that it is broken",
    )
    assert "'cuda:7' cannot be used" in own_service.health().json()["error"]["message"]
    record = own_service.post("a red cat", prefer="respond-async", steps=2)
    _add_ready_workers(own_service, 1)
    assert own_service.health().status_code == 200
    ended = own_service.wait_until_ended(record["id"])
    assert (ended["status"], ended["warnings"]) == ("success", [])
    states = [(worker["device"], worker["state"]) for worker in _workers(own_service)]
    assert states == [("cpu", "ready"), ("cuda:7", "broken")]


def test_a_worker_that_stops_gives_back_only_what_is_its_own(own_service: FaultyService) -> None:
    _add_ready_workers(own_service, 2)
    jobs = [own_service.post("a cat", autoEnhance=False, steps=100) for _ in range(2)]
    for job in jobs:
        own_service.wait_until_painting(job["id"])
    worker = _holders(own_service)[jobs[0]["id"]]
    os.kill(worker, signal.SIGTERM)
    own_service.wait_until_exited(worker)
    assert own_service.get(jobs[1]["id"])["retryCount"] == 0
    assert [own_service.wait_until_ended(job["id"])["retryCount"] for job in jobs] == [1, 0]
    with closing(Database(own_service.data / "banatie.db")) as database:
        assert database.first("SELECT max(crashes) FROM generations")[0] == 0


def _add_worker(service: FaultyService, device: str = "cpu", **faults: dict[str, object]) -> int:
    """Add a worker with these faults; its process id."""
    return service.start_with_faults("worker", "--device", device, **faults)


def _add_ready_workers(service: FaultyService, count: int) -> None:
    before = _ready(service)
    for _ in range(count):
        _add_worker(service)
    service.wait_for(lambda: _ready(service) == before + count, "the workers to be ready")


def _workers(service: FaultyService) -> list[dict]:
    return service.health().json()["data"]["workers"]


def _ready(service: FaultyService) -> int:
    return sum(worker["state"] == "ready" for worker in _workers(service))


def _enhancers(service: FaultyService) -> int:
    return sum(worker["models"]["enhancement"] is not None for worker in _workers(service))


def _holders(service: FaultyService) -> dict[str, int]:
    """The process ids of the workers that have claimed generations, by generation id."""
    with closing(Database(service.data / "banatie.db")) as database:
        workers = Workers(database).present(time.time_ns() // 1_000_000)
        processes = {worker.id: worker.pid for worker in workers}
        held = database.query("SELECT id, claimed_by FROM generations WHERE claimed_by IS NOT NULL")
        return {row["id"]: processes[row["claimed_by"]] for row in held}


def _wait_until_all_ended(service: FaultyService, seconds: float = 60) -> list[dict]:
    """All records, once all have ended."""

    def unfinished() -> int:
        pages = (
            service.request("GET", f"/api/v1/generations?limit=1&status={status}").json()
            for status in ("pending", "processing")
        )
        return sum(page["pagination"]["total"] for page in pages)

    service.wait_for(lambda: unfinished() == 0, "all generations to end", seconds)
    records = service.records()
    service.count_outcomes(records)
    return records


def _count_log_lines(service: FaultyService, message: str) -> Counter[str]:
    """How often the log has this message, by generation id."""
    lines = (line for line in service.log.read_text().splitlines() if line.startswith("{"))
    logged = (json.loads(line) for line in lines)
    return Counter(line["generation_id"] for line in logged if line["message"] == message)
