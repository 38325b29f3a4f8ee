"""Backups made while everything runs, and backups and restores that are killed."""

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
from tests.faults.conftest import FaultyService

PLAIN = {"autoEnhance": False, "steps": 2}
RENAMES = ["os.rename"]
CHANGES = ["os.rename", "os.remove", "os.rmdir", "os.mkdir", "open"]
MOST_CHANGES = 200


def test_a_backup_made_while_jobs_run_gives_all_of_them_back(
    build: Callable[..., FaultyService],
) -> None:
    house, file = build(), None
    house.hire_and_wait()
    gone = [house.paint("a cat") for _ in range(4)]
    kept = [house.paint("a dog"), house.paint("a red cat", autoEnhance=True)]
    kept += [house.post("a cat", autoEnhance=False, steps=100)]
    kept += [house.post("a red cat", prefer="respond-async", steps=3) for _ in range(3)]
    house.painting(kept[2]["id"])
    for number in range(3):
        file = house.folder / f"backup-{number}"
        process = house.start("backup", str(file))
        # What is deleted while it is copied is in the backup with its picture, or not at all.
        house.request("DELETE", f"/api/v1/generations/{gone.pop()['id']}")
        assert process.wait(60) == 0
    after = house.post("a dog", **PLAIN)

    restored = build()
    restored.stop(restored.server)
    shutil.rmtree(restored.data)
    ended = restored.run("restore", str(file))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "7 generations" in ended.stdout
    restored.key = house.key
    restored.serve("--no-worker", ready=False)
    assert after["id"] not in {record["id"] for record in restored.records()}
    restored.start_worker()
    there = restored.all_ended([*kept, *gone])
    assert [record["status"] for record in there] == ["success"] * 7
    assert restored.picture(there[0]) == house.picture(there[0])
    restored.assert_tidy()
    # And where the backup was made, all went on.
    assert {r["status"] for r in house.all_ended([*kept, *gone, after])} == {"success"}
    house.assert_tidy()


def test_a_data_folder_in_use_is_not_restored_into(house: FaultyService) -> None:
    house.hire_and_wait()
    record = house.paint("a cat")
    file = house.folder / "backup"
    assert house.run("backup", str(file)).returncode == 0
    ended = house.run("restore", "--force", str(file))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"`banatie serve` (process {house.server.pid})" in ended.stderr
    assert house.get(record["id"]) == record


@pytest.fixture
def events(request: pytest.FixtureRequest) -> list[str]:
    """The events that a command is killed before: the decisive ones, in the long form all."""
    return CHANGES if request.config.getoption("kills", None) else RENAMES


def test_a_backup_that_is_killed_leaves_the_one_before(
    own: FaultyService, events: list[str]
) -> None:
    own.hire_and_wait()
    for _ in range(3):
        own.paint("a cat")
    folder = own.folder / "backups"
    folder.mkdir()
    file = folder / "file"
    assert own.run("backup", str(file)).returncode == 0
    before = file.read_bytes()
    own.paint("a dog")
    kills = 0
    while not _survives(own, folder, events, kills + 1, "backup", str(file)):
        kills += 1
        assert file.read_bytes() == before
    assert 0 < kills < MOST_CHANGES
    assert file.read_bytes() != before
    # What those left that were killed is gone, too.
    assert list(folder.iterdir()) == [file]
    assert own.run("--set", f"storage.data_dir={own.folder}/new", "restore", str(file)).stdout
    assert _contents(own.folder / "new") == _contents(own.data)


def test_a_restore_that_is_killed_has_happened_wholly_or_not_at_all(
    own: FaultyService, events: list[str]
) -> None:
    own.hire_and_wait()
    for _ in range(3):
        own.paint("a cat")
    backed_up, file = _contents(own.data), own.folder / "backup"
    assert own.run("backup", str(file)).returncode == 0
    own.request("DELETE", f"/api/v1/generations/{own.paint('a dog')['id']}")
    own.request("DELETE", f"/api/v1/generations/{own.records()[0]['id']}")
    own.paint("a dog")
    own.kill_worker(signal.SIGTERM)
    own.stop(own.server)
    replaced, kept = _contents(own.data), own.folder / "kept"
    assert replaced != backed_up
    own.data.rename(kept)
    outcomes, killed = [], True
    while killed:
        shutil.copytree(kept, own.data, ignore=shutil.ignore_patterns("*.sock"))
        arguments = ("restore", "--force", str(file))
        killed = not _survives(own, own.data, events, len(outcomes) + 1, *arguments)
        finish_restore(own.data)
        outcomes.append(_contents(own.data))
        assert outcomes[-1] in (replaced, backed_up)
        shutil.rmtree(own.data)
    # First nothing of it has happened, and from one moment on all.
    assert outcomes == sorted(outcomes, key=lambda contents: contents == backed_up)
    assert outcomes[0] == replaced
    assert outcomes[-2:] == [backed_up] * 2
    assert len(outcomes) < MOST_CHANGES


def test_a_restore_that_was_killed_is_finished_by_the_next_start(own: FaultyService) -> None:
    own.hire_and_wait()
    record, file = own.paint("a cat"), own.folder / "backup"
    assert own.run("backup", str(file)).returncode == 0
    own.request("DELETE", f"/api/v1/generations/{record['id']}")
    own.kill_worker(signal.SIGTERM)
    own.stop(own.server)
    # Before the second rename: everything is unpacked and checked, nothing in its place yet.
    assert not _survives(own, own.data, RENAMES, 2, "restore", "--force", str(file))
    assert (own.data / "restore.ready").exists()
    own.serve("--no-worker", ready=False)
    assert own.get(record["id"]) == record
    own.hire_and_wait()
    own.paint("a dog")
    own.assert_tidy()


def _survives(
    house: FaultyService, folder: Path, events: list[str], number: int, *command: str
) -> bool:
    """Run a command that is killed before so many changes of the folder; whether it ended well."""
    said = house.log.stat().st_size
    house.gone(
        house.wounded(
            *command, die_at_change={"folder": str(folder), "number": number, "events": events}
        )
    )
    return "generations, " in house.log.read_bytes()[said:].decode()


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
