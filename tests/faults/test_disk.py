"""The queue's file deleted or damaged, and disks that are full for a while."""

from __future__ import annotations

import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.faults.conftest import FaultyService

PLAIN = {"autoEnhance": False, "steps": 2}


def _delete(queue: Path) -> None:
    for file in queue.parent.glob(queue.name + "*"):
        file.unlink()


def _damage(queue: Path) -> None:
    for file in queue.parent.glob(queue.name + "*"):
        file.write_bytes(b"this is no database " * 5000)


@pytest.mark.parametrize("harm", [_delete, _damage])
def test_the_queue_is_harmed_while_the_worker_is_away(own: FaultyService, harm: Callable) -> None:
    jobs = [own.post("a red cat", prefer="respond-async", steps=2), own.post("a dog", **PLAIN)]
    harm(own.data / "queue.db")
    jobs.append(own.post("a dog", **PLAIN))
    own.hire_and_wait()
    assert [record["status"] for record in own.all_ended(jobs, 20)] == ["success"] * 3
    assert own.paint("a red cat", autoEnhance=True)["warnings"] == []


@pytest.mark.parametrize("harm", [_delete, _damage])
def test_the_queue_is_harmed_while_all_is_stopped(own: FaultyService, harm: Callable) -> None:
    jobs = [own.post("a red cat", prefer="respond-async", steps=2), own.post("a dog", **PLAIN)]
    own.stop(own._processes[-1])
    harm(own.data / "queue.db")
    own.serve("--no-worker", ready=False)
    own.start_worker()
    assert [record["status"] for record in own.all_ended(jobs, 20)] == ["success"] * 2
    assert own.paint("a red cat", autoEnhance=True)["warnings"] == []


@pytest.mark.parametrize("harm", [_delete, _damage])
def test_the_queue_is_harmed_while_all_is_running(own: FaultyService, harm: Callable) -> None:
    own.hire_and_wait()
    own.paint("a red cat", autoEnhance=True)
    harm(own.data / "queue.db")
    jobs = [own.post("a red cat", prefer="respond-async", steps=2), own.post("a dog", **PLAIN)]
    # By itself, without a restart: the worker looks for rows every few seconds.
    assert [record["status"] for record in own.all_ended(jobs, 20)] == ["success"] * 2


def test_a_full_disk_costs_the_jobs_that_needed_it(house: FaultyService) -> None:
    full = house.folder / "full"
    full.touch()
    house.hire_and_wait(fill_disk={"while_there": str(full)})
    failed = house.ended(house.post("a cat", **PLAIN)["id"])
    assert failed["status"] == "failed"
    assert failed["errorMessage"] == "The picture could not be saved: No space left on device"
    assert house.files() == house.known_files()
    full.unlink()
    house.paint("a dog")
    house.assert_tidy()


def test_a_worker_that_could_write_nothing_for_a_while_goes_on(own: FaultyService) -> None:
    """No byte of its database either: the job that it held must not stay `processing`."""
    own.hire_and_wait()
    worker = own.worker
    job = own.post("a cat", autoEnhance=False, steps=100)
    own.painting(job["id"])
    usual = resource.prlimit(worker, resource.RLIMIT_FSIZE)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (0, usual[1]))
    # Long enough for the picture to come to its end, or to the first write that fails.
    following = own.post("a dog", **PLAIN)
    _stands_still(own, job["id"])
    resource.prlimit(worker, resource.RLIMIT_FSIZE, usual)
    ended = own.all_ended([job, following], 20)
    assert ended[1]["status"] == "success"
    assert ended[0]["status"] == "success" or ended[0]["errorMessage"]
    own.wait_for(lambda: own.health().status_code == 200, "the service to be healthy again", 20)
    own.assert_tidy()


def test_a_server_that_cannot_write_accepts_nothing_and_recovers(own: FaultyService) -> None:
    server = own._processes[-1].pid
    usual = resource.prlimit(server, resource.RLIMIT_FSIZE)
    resource.prlimit(server, resource.RLIMIT_FSIZE, (0, usual[1]))
    refused = own.request("POST", "/api/v1/generations", json={"prompt": "a cat", **PLAIN})
    assert refused.status_code in (500, 503)
    assert refused.json()["success"] is False
    assert "disk" not in refused.json()["error"]["message"]
    resource.prlimit(server, resource.RLIMIT_FSIZE, usual)
    own.hire_and_wait()
    own.paint("a cat")
    listed = own.request("GET", "/api/v1/generations").json()
    assert listed["pagination"]["total"] == 1


def test_a_disk_without_room_loses_nothing_that_was_accepted(own: FaultyService) -> None:
    own.move_to_disk("4m")
    own.hire_and_wait()
    jobs = [own.post("a cat", autoEnhance=False, steps=60)]
    jobs += [own.post("a red cat", prefer="respond-async", steps=2) for _ in range(2)]
    own.painting(jobs[0]["id"])
    ballast = own.disk.fill()
    wish = {"prompt": "a cat", **PLAIN}
    posts = [own.request("POST", "/api/v1/generations", json=wish) for _ in range(3)]
    # Some may have found room that was there already.
    jobs += [answer.json()["data"] for answer in posts if answer.status_code == 201]
    assert {answer.status_code for answer in posts} <= {201, 503}
    assert own.request("GET", "/api/v1/generations").status_code == 200
    own.wait_for(
        lambda: "be reached" in own.log.read_text() or own.get(jobs[0]["id"])["errorMessage"],
        "the worker to notice",
    )
    ballast.unlink()
    jobs.append(own.post("a dog", **PLAIN))
    for record in own.all_ended(jobs):
        assert record["status"] == "success" or record["errorMessage"]
    assert len(own.records()) == len(jobs)
    own.wait_for(lambda: own.health().status_code == 200, "the service to be healthy")
    own.paint("a dog")
    # What a worker could not clear away for want of room, the next one does.
    own.kill_worker(signal.SIGTERM)
    own.hire_and_wait()
    own.assert_tidy()


@pytest.mark.parametrize(
    "command",
    [["serve"], ["worker"], ["generate", "a cat"], ["keys", "create", "--name", "k"], ["migrate"]],
    ids=lambda command: command[0],
)
def test_a_data_folder_that_cannot_be_written_is_named(
    protected: FaultyService, command: list[str]
):
    ended = protected.run(*command)
    assert (ended.returncode, ended.stdout) == (1, "")
    folder = protected.environment["BANATIE_STORAGE__DATA_DIR"]
    assert re.fullmatch(rf"banatie: [^\n]*{folder}[^\n]* cannot be [^\n]+\n", ended.stderr)


@pytest.fixture(scope="module")
def protected(
    architect: Callable[..., AbstractContextManager[FaultyService]],
) -> Iterator[FaultyService]:
    """A house with a record and a data folder that nobody can write; nothing runs there."""
    with architect() as house:
        house.move_to_disk("4m")
        house.post("a cat", **PLAIN)
        house.stop(house.server)
        house.disk.protect()
        yield house


def _stands_still(house: FaultyService, generation_id: str, looks: int = 40) -> None:
    """Wait until so many looks in a row have shown the same record."""
    seen: list[dict] = []

    def look() -> bool:
        record = house.get(generation_id)
        if seen and record != seen[0]:
            seen.clear()
        seen.append(record)
        return len(seen) >= looks

    house.wait_for(look, "the record to stand still")
