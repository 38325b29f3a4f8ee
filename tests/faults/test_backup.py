"""Backups made while everything runs; backups and restores that are killed."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from banatie.store.backup import finish_restore
from banatie.store.database import Database
from banatie.store.generations import Generations
from banatie.store.images import Images
from tests.support.faulty_service import FaultyService

PLAIN = {"autoEnhance": False, "steps": 2}
RENAMES = ["os.rename"]
CHANGES = ["os.rename", "os.remove", "os.rmdir", "os.mkdir", "open"]
MAX_CHANGES = 200


def test_a_backup_made_while_jobs_run_gives_all_of_them_back(
    new_service: Callable[..., FaultyService],
) -> None:
    service, file = new_service(), None
    service.start_worker_and_wait()
    gone = [service.paint("a cat") for _ in range(4)]
    kept = [service.paint("a dog"), service.paint("a red cat", autoEnhance=True)]
    kept += [service.post("a cat", autoEnhance=False, steps=100)]
    kept += [service.post("a red cat", prefer="respond-async", steps=3) for _ in range(3)]
    service.wait_until_painting(kept[2]["id"])
    for number in range(3):
        file = service.folder / f"backup-{number}"
        process = service.start("backup", str(file))
        # A generation deleted during the copy is in the backup with its picture, or not at all.
        service.request("DELETE", f"/api/v1/generations/{gone.pop()['id']}")
        assert process.wait(60) == 0
    after = service.post("a dog", **PLAIN)

    restored = new_service()
    restored.stop(restored.server)
    shutil.rmtree(restored.data)
    ended = restored.run("restore", str(file))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "7 generations" in ended.stdout
    restored.key = service.key
    restored.serve("--no-worker", ready=False)
    assert after["id"] not in {record["id"] for record in restored.records()}
    restored.start_worker()
    there = restored.wait_until_all_ended([*kept, *gone])
    assert [record["status"] for record in there] == ["success"] * 7
    assert restored.picture(there[0]) == service.picture(there[0])
    restored.assert_files_match_records()
    # Where the backup was made, everything went on.
    assert {r["status"] for r in service.wait_until_all_ended([*kept, *gone, after])} == {"success"}
    service.assert_files_match_records()


def test_a_data_folder_in_use_is_not_restored_into(service: FaultyService) -> None:
    service.start_worker_and_wait()
    record = service.paint("a cat")
    file = service.folder / "backup"
    assert service.run("backup", str(file)).returncode == 0
    ended = service.run("restore", "--force", str(file))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"`banatie serve` (process {service.server.pid})" in ended.stderr
    assert service.get(record["id"]) == record


@pytest.fixture
def events(request: pytest.FixtureRequest) -> list[str]:
    """The events before which a command is killed: the renames, or all in the long form."""
    return CHANGES if request.config.getoption("kills", None) else RENAMES


def test_a_backup_that_is_killed_leaves_the_one_before(
    own_service: FaultyService, events: list[str]
) -> None:
    own_service.start_worker_and_wait()
    for _ in range(3):
        own_service.paint("a cat")
    folder = own_service.folder / "backups"
    folder.mkdir()
    file = folder / "file"
    assert own_service.run("backup", str(file)).returncode == 0
    before = file.read_bytes()
    own_service.paint("a dog")
    for kills in range(MAX_CHANGES):
        if _survives(own_service, folder, events, kills + 1, "backup", str(file)):
            break
        assert file.read_bytes() == before
    else:
        pytest.fail(f"the backup did not survive {MAX_CHANGES} changes")
    assert kills > 0
    assert file.read_bytes() != before
    # The leftovers of the killed ones are gone, too.
    assert list(folder.iterdir()) == [file]
    assert own_service.run(
        "--set", f"storage.data_dir={own_service.folder}/new", "restore", str(file)
    ).stdout
    assert _contents(own_service.folder / "new") == _contents(own_service.data)


def test_a_restore_that_is_killed_has_happened_wholly_or_not_at_all(
    own_service: FaultyService, events: list[str]
) -> None:
    own_service.start_worker_and_wait()
    for _ in range(3):
        own_service.paint("a cat")
    backed_up, file = _contents(own_service.data), own_service.folder / "backup"
    assert own_service.run("backup", str(file)).returncode == 0
    own_service.request("DELETE", f"/api/v1/generations/{own_service.paint('a dog')['id']}")
    own_service.request("DELETE", f"/api/v1/generations/{own_service.records()[0]['id']}")
    own_service.paint("a dog")
    own_service.kill_worker(signal.SIGTERM)
    own_service.stop(own_service.server)
    replaced, kept = _contents(own_service.data), own_service.folder / "kept"
    assert replaced != backed_up
    own_service.data.rename(kept)
    outcomes: list[dict[str, bytes | None]] = []
    killed = True
    while killed:
        assert len(outcomes) < MAX_CHANGES
        shutil.copytree(kept, own_service.data, ignore=shutil.ignore_patterns("*.sock"))
        arguments = ("restore", "--force", str(file))
        killed = not _survives(own_service, own_service.data, events, len(outcomes) + 1, *arguments)
        finish_restore(own_service.data)
        outcomes.append(_contents(own_service.data))
        assert outcomes[-1] in (replaced, backed_up)
        shutil.rmtree(own_service.data)
    # Up to one change nothing has been restored, and from then on everything.
    assert outcomes == sorted(outcomes, key=lambda contents: contents == backed_up)
    assert outcomes[0] == replaced
    assert outcomes[-2:] == [backed_up] * 2


def test_a_restore_that_was_killed_is_finished_by_the_next_start(
    own_service: FaultyService,
) -> None:
    own_service.start_worker_and_wait()
    record, file = own_service.paint("a cat"), own_service.folder / "backup"
    assert own_service.run("backup", str(file)).returncode == 0
    own_service.request("DELETE", f"/api/v1/generations/{record['id']}")
    own_service.kill_worker(signal.SIGTERM)
    own_service.stop(own_service.server)
    # Before the second rename: everything is unpacked and checked, nothing is replaced yet.
    assert not _survives(own_service, own_service.data, RENAMES, 2, "restore", "--force", str(file))
    assert (own_service.data / "restore.ready").exists()
    own_service.serve("--no-worker", ready=False)
    assert own_service.get(record["id"]) == record
    own_service.start_worker_and_wait()
    own_service.paint("a dog")
    own_service.assert_files_match_records()


def _survives(
    service: FaultyService, folder: Path, events: list[str], number: int, *command: str
) -> bool:
    """Run a command that is killed before this change of the folder; whether it succeeded."""
    logged = service.log.stat().st_size
    service.wait_until_exited(
        service.start_with_faults(
            *command, die_at_change={"folder": str(folder), "number": number, "events": events}
        )
    )
    return "generations, " in service.log.read_bytes()[logged:].decode()


def _contents(data: Path) -> dict[str, bytes | None]:
    """The ids of the generations that a data folder holds, each with its picture."""
    with closing(Database(data / "banatie.db")) as database:
        database.check()
        files = {
            image.id: (data / "storage" / image.storage_key).read_bytes()
            for image in Images(database).all()
        }
        return {
            generation.id: files[generation.image.id] if generation.image else None
            for generation in Generations(database).changed_since(0)
        }
