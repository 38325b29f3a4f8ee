"""The queue's file deleted or corrupted, and disks that are full for a while."""

from __future__ import annotations

import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.faulty_service import FaultyService

PLAIN = {"autoEnhance": False, "steps": 2}


def _delete(queue: Path) -> None:
    for file in queue.parent.glob(queue.name + "*"):
        file.unlink()


def _corrupt(queue: Path) -> None:
    for file in queue.parent.glob(queue.name + "*"):
        file.write_bytes(b"this is no database " * 5000)


@pytest.mark.parametrize("harm", [_delete, _corrupt])
def test_the_queue_is_harmed_while_the_worker_is_away(
    own_service: FaultyService, harm: Callable
) -> None:
    jobs = [
        own_service.post("a red cat", prefer="respond-async", steps=2),
        own_service.post("a dog", **PLAIN),
    ]
    harm(own_service.data / "queue.db")
    jobs.append(own_service.post("a dog", **PLAIN))
    own_service.start_worker_and_wait()
    assert [record["status"] for record in own_service.wait_until_all_ended(jobs, 20)] == [
        "success"
    ] * 3
    assert own_service.paint("a red cat", autoEnhance=True)["warnings"] == []


@pytest.mark.parametrize("harm", [_delete, _corrupt])
def test_the_queue_is_harmed_while_all_is_stopped(
    own_service: FaultyService, harm: Callable
) -> None:
    jobs = [
        own_service.post("a red cat", prefer="respond-async", steps=2),
        own_service.post("a dog", **PLAIN),
    ]
    own_service.stop(own_service.server)
    harm(own_service.data / "queue.db")
    own_service.serve("--no-worker", ready=False)
    own_service.start_worker()
    assert [record["status"] for record in own_service.wait_until_all_ended(jobs, 20)] == [
        "success"
    ] * 2
    assert own_service.paint("a red cat", autoEnhance=True)["warnings"] == []


@pytest.mark.parametrize("harm", [_delete, _corrupt])
def test_the_queue_is_harmed_while_all_is_running(
    own_service: FaultyService, harm: Callable
) -> None:
    own_service.start_worker_and_wait()
    own_service.paint("a red cat", autoEnhance=True)
    harm(own_service.data / "queue.db")
    jobs = [
        own_service.post("a red cat", prefer="respond-async", steps=2),
        own_service.post("a dog", **PLAIN),
    ]
    # Without a restart: the worker looks for waiting rows every few seconds.
    assert [record["status"] for record in own_service.wait_until_all_ended(jobs, 20)] == [
        "success"
    ] * 2


def test_a_full_disk_costs_the_jobs_that_needed_it(service: FaultyService) -> None:
    full = service.folder / "full"
    full.touch()
    service.start_worker_and_wait(fill_disk={"while_exists": str(full)})
    failed = service.wait_until_ended(service.post("a cat", **PLAIN)["id"])
    assert failed["status"] == "failed"
    assert failed["errorMessage"] == "The picture could not be saved: No space left on device"
    assert service.files() == service.known_files()
    full.unlink()
    service.paint("a dog")
    service.assert_files_match_records()


def test_a_worker_that_could_write_nothing_for_a_while_goes_on(own_service: FaultyService) -> None:
    """It cannot write to the database either: the job that it held must not stay `processing`."""
    own_service.start_worker_and_wait()
    worker = own_service.worker
    job = own_service.post("a cat", autoEnhance=False, steps=100)
    own_service.wait_until_painting(job["id"])
    usual = resource.prlimit(worker, resource.RLIMIT_FSIZE)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (0, usual[1]))
    # Until the picture is finished, or the first write has failed.
    following = own_service.post("a dog", **PLAIN)
    _wait_until_unchanged(own_service, job["id"])
    resource.prlimit(worker, resource.RLIMIT_FSIZE, usual)
    ended = own_service.wait_until_all_ended([job, following], 20)
    assert ended[1]["status"] == "success"
    assert ended[0]["status"] == "success" or ended[0]["errorMessage"]
    own_service.wait_for(
        lambda: own_service.health().status_code == 200, "the service to be healthy again", 20
    )
    own_service.assert_files_match_records()


def test_a_server_that_cannot_write_accepts_nothing_and_recovers(
    own_service: FaultyService,
) -> None:
    server = own_service.server.pid
    usual = resource.prlimit(server, resource.RLIMIT_FSIZE)
    resource.prlimit(server, resource.RLIMIT_FSIZE, (0, usual[1]))
    refused = own_service.request("POST", "/api/v1/generations", json={"prompt": "a cat", **PLAIN})
    assert refused.status_code in (500, 503)
    assert refused.json()["success"] is False
    assert "disk" not in refused.json()["error"]["message"]
    resource.prlimit(server, resource.RLIMIT_FSIZE, usual)
    own_service.start_worker_and_wait()
    own_service.paint("a cat")
    listed = own_service.request("GET", "/api/v1/generations").json()
    assert listed["pagination"]["total"] == 1


def test_a_disk_without_room_loses_nothing_that_was_accepted(own_service: FaultyService) -> None:
    own_service.move_to_disk("4m")
    own_service.start_worker_and_wait()
    jobs = [own_service.post("a cat", autoEnhance=False, steps=60)]
    jobs += [own_service.post("a red cat", prefer="respond-async", steps=2) for _ in range(2)]
    own_service.wait_until_painting(jobs[0]["id"])
    ballast = own_service.disk.fill()
    wish = {"prompt": "a cat", **PLAIN}
    posts = [own_service.request("POST", "/api/v1/generations", json=wish) for _ in range(3)]
    # Some may have used space that SQLite had allocated before.
    jobs += [answer.json()["data"] for answer in posts if answer.status_code == 201]
    assert {answer.status_code for answer in posts} <= {201, 503}
    assert own_service.request("GET", "/api/v1/generations").status_code == 200
    own_service.wait_for(
        lambda: (
            "disk of the data folder is full" in own_service.log.read_text()
            or own_service.get(jobs[0]["id"])["errorMessage"]
        ),
        "the worker to notice",
    )
    ballast.unlink()
    jobs.append(own_service.post("a dog", **PLAIN))
    for record in own_service.wait_until_all_ended(jobs):
        assert record["status"] == "success" or record["errorMessage"]
    assert len(own_service.records()) == len(jobs)
    own_service.wait_for(
        lambda: own_service.health().status_code == 200, "the service to be healthy"
    )
    own_service.paint("a dog")
    # Files that a worker could not delete without disk space, the next one deletes.
    own_service.kill_worker(signal.SIGTERM)
    own_service.start_worker_and_wait()
    own_service.assert_files_match_records()


def test_a_full_disk_is_said_and_pictures_can_be_deleted(own_service: FaultyService) -> None:
    own_service.move_to_disk("5m")
    own_service.start_worker_and_wait()
    pictures = [own_service.paint("a cat") for _ in range(3)]
    reserve = own_service.data / "reserve"
    assert reserve.exists()
    ballast = own_service.disk.fill()
    health = own_service.health()
    assert health.status_code == 503
    assert "disk of the data folder is full" in health.json()["error"]["message"]
    refused = own_service.request("POST", "/api/v1/generations", json={"prompt": "a cat", **PLAIN})
    assert refused.status_code == 503
    assert "disk of the data folder is full" in refused.json()["error"]["message"]
    for picture in pictures:
        path = f"/api/v1/generations/{picture['id']}"
        answer = own_service.request("DELETE", path)
        assert answer.status_code == 200, answer.text
        assert own_service.request("GET", path).status_code == 404
    assert own_service.files() == set()
    ballast.unlink()
    own_service.wait_for(lambda: own_service.health().status_code == 200, "health")
    own_service.wait_for(reserve.exists, "the reserve")
    own_service.paint("a dog")


@pytest.mark.parametrize("is_put_back", [True, False])
def test_a_database_deleted_under_the_server_accepts_nothing(
    own_service: FaultyService, is_put_back: bool
) -> None:
    own_service.start_worker_and_wait()
    own_service.paint("a cat")
    trash = own_service.folder / "trash"
    trash.mkdir()
    for file in own_service.data.glob("banatie.db*"):
        file.rename(trash / file.name)
    answers = [
        own_service.request("POST", "/api/v1/generations", json={"prompt": "a cat", **PLAIN}),
        own_service.request("GET", "/api/v1/generations"),
        own_service.health(),
    ]
    for answer in answers:
        assert answer.status_code == 503, answer.text
        assert "deleted or replaced" in answer.json()["error"]["message"]
    assert not list(own_service.data.glob("banatie.db*"))
    if is_put_back:
        for file in trash.iterdir():
            file.rename(own_service.data / file.name)
    else:
        own_service.kill_worker()
        own_service.stop(own_service.server)
        own_service.serve("--no-worker", ready=False)
        own_service.start_worker_and_wait()
    own_service.wait_for(lambda: own_service.health().status_code == 200, "health")
    own_service.paint("a dog")
    assert len(own_service.records()) == 1 + is_put_back


def test_a_read_only_disk_is_backed_up_to_another(read_only: FaultyService) -> None:
    file = read_only.folder / "banatie.tar"
    made = read_only.run("backup", str(file))
    assert (made.returncode, made.stderr) == (0, "")
    assert "1 generations" in made.stdout
    place = str(read_only.folder / "elsewhere")
    restored = read_only.run("restore", str(file), BANATIE_STORAGE__DATA_DIR=place)
    assert (restored.returncode, restored.stderr) == (0, "")
    assert "1 generations" in restored.stdout


@pytest.mark.parametrize(
    "command",
    [["serve"], ["worker"], ["generate", "a cat"], ["keys", "create", "--name", "k"], ["migrate"]],
    ids=lambda command: command[0],
)
def test_a_data_folder_that_cannot_be_written_is_named(
    read_only: FaultyService, command: list[str]
):
    ended = read_only.run(*command)
    assert (ended.returncode, ended.stdout) == (1, "")
    folder = read_only.environment["BANATIE_STORAGE__DATA_DIR"]
    assert re.fullmatch(rf"banatie: [^\n]*{folder}[^\n]* cannot be [^\n]+\n", ended.stderr)


@pytest.fixture(scope="module")
def read_only(
    service_factory: Callable[..., AbstractContextManager[FaultyService]],
) -> Iterator[FaultyService]:
    """A service with a record and a read-only data folder; no process runs there."""
    with service_factory() as service:
        service.move_to_disk("4m")
        service.post("a cat", **PLAIN)
        service.stop(service.server)
        service.disk.make_read_only()
        yield service


def _wait_until_unchanged(service: FaultyService, generation_id: str, reads: int = 40) -> None:
    """Wait until this many reads in a row have returned the same record."""
    seen: list[dict] = []

    def unchanged() -> bool:
        record = service.get(generation_id)
        if seen and record != seen[0]:
            seen.clear()
        seen.append(record)
        return len(seen) >= reads

    service.wait_for(unchanged, "the record to stop changing")
