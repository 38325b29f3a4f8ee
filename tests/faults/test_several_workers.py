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
from tests.faults.conftest import FaultyService, lives

PLAIN = {"autoEnhance": False, "steps": 2}


def test_workers_killed_and_added_paint_every_picture_once(
    build: Callable[..., FaultyService], kills: int
) -> None:
    house = build(worker__max_retries=str(kills), log__format="json")
    count, chance = max(60, 6 * kills), random.Random(11)
    crew = [_enlist(house) for _ in range(3)]
    jobs: list[dict] = []
    for number in range(kills):
        first = len(jobs)
        while len(jobs) < count * (number + 1) // kills:
            enhanced = len(jobs) % 10 == 0
            steps = chance.randint(1, 12)
            prefer = "respond-async" if enhanced else ""
            jobs.append(house.post("a red cat", prefer=prefer, autoEnhance=enhanced, steps=steps))
        house.record_when(jobs[first]["id"], lambda record: record["status"] != "pending")
        time.sleep(chance.random() / 5)
        victim = crew.pop(chance.randrange(len(crew)))
        os.kill(victim, signal.SIGKILL)
        crew.append(_enlist(house))
    records = _all_ended(house, 60 + count)
    assert len(records) == len(jobs) == count
    assert {record["status"] for record in records} == {"success"}
    assert [record["warnings"] for record in records] == [[]] * count
    # A worker has one in each hand.
    assert sum(record["retryCount"] for record in records) <= 2 * kills
    # What the dead had written and nobody knows is swept by those who live.
    house.wait_for(lambda: house.files() == house.known_files(), "the sweep")
    assert len(house.files()) == count
    house.assert_tidy()
    ended = 'banatie_generations_ended_total{reason="",status="success"} '
    assert f"{ended}{count}.0" in house.request("GET", "/metrics").text
    begun, finished = _told(house, "painting"), _told(house, "finished")
    assert set(finished.values()) == {1}
    for record in records:
        # Nobody began on what another had in hand: between two beginnings it was taken back.
        assert begun[record["id"]] <= record["retryCount"] + 1
    assert all(lives(worker) for worker in crew)


def test_what_a_killed_worker_had_in_hand_is_taken_over_by_another(own: FaultyService) -> None:
    _enlist_ready(own, 2)
    jobs = [own.post("a cat", autoEnhance=False, steps=100) for _ in range(2)]
    for job in jobs:
        own.painting(job["id"])
    holders = _holders(own)
    lost, kept = jobs
    os.kill(holders[lost["id"]], signal.SIGKILL)
    # Nobody is started in its place.
    lost, kept = (own.ended(job["id"]) for job in (lost, kept))
    assert (lost["status"], lost["retryCount"]) == ("success", 1)
    assert (kept["status"], kept["retryCount"]) == ("success", 0)
    own.assert_tidy()
    assert [worker["state"] for worker in _workers(own)] == ["ready"]


def test_a_job_that_kills_workers_costs_the_others_nothing(own: FaultyService) -> None:
    tally = own.tally()

    def enlist() -> int:
        wound = {"tally": tally, "step": 2, "times": 99, "word": "poison"}
        return _enlist(own, die_at_step=wound)

    crew = [enlist(), enlist()]
    own.wait_for(lambda: _ready(own) == 2, "two workers to be ready")
    others = [own.post("a cat", autoEnhance=False, steps=20) for _ in range(4)]
    poison = own.post("a bottle of poison", **PLAIN)
    others += [own.post("a cat", autoEnhance=False, steps=20) for _ in range(4)]

    def look() -> bool:
        for number, worker in enumerate(crew):
            if not lives(worker):
                crew[number] = enlist()
        return own.get(poison["id"])["status"] == "failed"

    own.wait_for(look, "the poison to be given up")
    assert own.get(poison["id"])["retryCount"] == 3
    records = _all_ended(own)
    rest = [record for record in records if record["id"] != poison["id"]]
    assert [(r["status"], r["retryCount"]) for r in rest] == [("success", 0)] * len(others)
    own.assert_tidy()


def test_when_the_language_models_worker_dies_another_takes_it(own: FaultyService) -> None:
    # The first has the language model, and dies of the first prompt.
    _enlist(own, die_while_enhancing={"tally": own.tally()})
    own.wait_for(lambda: _ready(own) == 1, "the first worker")
    _enlist_ready(own, 2)
    assert _enhancers(own) == 1
    painting = [own.post("a cat", autoEnhance=False, steps=60) for _ in range(3)]
    for job in painting:
        own.painting(job["id"])
    prompt = own.post("a red cat", prefer="respond-async", steps=2)
    ended = own.ended(prompt["id"])
    assert (ended["status"], ended["warnings"], ended["retryCount"]) == ("success", [], 1)
    assert ended["prompt"] != ended["originalPrompt"]
    assert {record["status"] for record in _all_ended(own)} == {"success"}
    # What the other two had in hand, nobody took from them.
    retries = sorted(own.get(job["id"])["retryCount"] for job in painting)
    assert retries[:2] == [0, 0]
    own.wait_for(lambda: len(_workers(own)) == 2, "the dead worker to be forgotten")
    assert _enhancers(own) == 1
    assert own.health().json()["data"]["models"]["enhancement"]


def test_a_worker_whose_device_is_not_there_takes_nobody_down(own: FaultyService) -> None:
    _enlist(own, device="cuda:7")
    own.wait_for(lambda: own.health().json()["data"]["worker"] == "broken", "it to find out")
    assert "'cuda:7' cannot be used" in own.health().json()["error"]["message"]
    record = own.post("a red cat", prefer="respond-async", steps=2)
    _enlist_ready(own, 1)
    assert own.health().status_code == 200
    ended = own.ended(record["id"])
    assert (ended["status"], ended["warnings"]) == ("success", [])
    told = [(worker["device"], worker["state"]) for worker in _workers(own)]
    assert told == [("cpu", "ready"), ("cuda:7", "broken")]


def test_a_worker_that_stops_gives_back_only_what_is_its_own(own: FaultyService) -> None:
    _enlist_ready(own, 2)
    jobs = [own.post("a cat", autoEnhance=False, steps=100) for _ in range(2)]
    for job in jobs:
        own.painting(job["id"])
    worker = _holders(own)[jobs[0]["id"]]
    os.kill(worker, signal.SIGTERM)
    own.gone(worker)
    assert own.get(jobs[1]["id"])["retryCount"] == 0
    assert [own.ended(job["id"])["retryCount"] for job in jobs] == [1, 0]
    with closing(Database(own.data / "banatie.db")) as database:
        assert database.first("SELECT max(crashes) FROM generations")[0] == 0


def _enlist(house: FaultyService, device: str = "cpu", **wounds: dict[str, object]) -> int:
    """Add a worker with these wounds; its process id."""
    return house.wounded("worker", "--device", device, **wounds)


def _enlist_ready(house: FaultyService, count: int) -> None:
    before = _ready(house)
    for _ in range(count):
        _enlist(house)
    house.wait_for(lambda: _ready(house) == before + count, "the workers to be ready")


def _workers(house: FaultyService) -> list[dict]:
    return house.health().json()["data"]["workers"]


def _ready(house: FaultyService) -> int:
    return sum(worker["state"] == "ready" for worker in _workers(house))


def _enhancers(house: FaultyService) -> int:
    return sum(worker["models"]["enhancement"] is not None for worker in _workers(house))


def _holders(house: FaultyService) -> dict[str, int]:
    """The processes that have generations in hand, by those generations' ids."""
    with closing(Database(house.data / "banatie.db")) as database:
        workers = Workers(database).present(time.time_ns() // 1_000_000)
        processes = {worker.id: worker.pid for worker in workers}
        held = database.query("SELECT id, claimed_by FROM generations WHERE claimed_by IS NOT NULL")
        return {row["id"]: processes[row["claimed_by"]] for row in held}


def _all_ended(house: FaultyService, seconds: float = 60) -> list[dict]:
    """All records, once all have ended."""

    def unfinished() -> int:
        pages = (
            house.request("GET", f"/api/v1/generations?limit=1&status={status}").json()
            for status in ("pending", "processing")
        )
        return sum(page["pagination"]["total"] for page in pages)

    house.wait_for(lambda: unfinished() == 0, "all generations to end", seconds)
    records = house.records()
    house.tally_up(records)
    return records


def _told(house: FaultyService, message: str) -> Counter[str]:
    """How often the log tells this of each generation."""
    lines = (line for line in house.log.read_text().splitlines() if line.startswith("{"))
    told = (json.loads(line) for line in lines)
    return Counter(line["generation_id"] for line in told if line["message"] == message)
