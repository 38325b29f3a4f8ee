"""Migrations: databases of earlier versions keep their data.

`data/before-mode.db.gz` was made by the version before the enhancement's `mode` (commit e0c6318),
with that version's own classes: two keys (one revoked), a generation that succeeded with an
enhancement noted as `{"way": "led"}`, one that failed with `{"way": "free"}`, and one that waits.
It was checkpointed, so that the one file holds everything, and compressed with gzip.

`data/before-pictures.db.gz` was made in the same way by the version before flows, aliases and
references (commit 31ba4db): a generation that succeeded, one that failed, one in the bin, one that
waits, and, last, one that was deleted.
"""

from __future__ import annotations

import gzip
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlite_utils

from banatie.records import EnhancementNote, LoraUse, Submission
from banatie.store.backup import restore_backup, write_backup
from banatie.store.claims import Claims
from banatie.store.database import Database
from banatie.store.generations import Generations
from banatie.store.keys import Keys, is_active
from banatie.store.migrations import migrations
from banatie.store.statistics import read_statistics
from banatie.store.workers import Workers

DATA = Path(__file__).parent / "data"
BEFORE_MODE = DATA / "before-mode.db.gz"
BEFORE_PICTURES = DATA / "before-pictures.db.gz"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A data folder of the version before `mode`."""
    data = tmp_path / "old"
    data.mkdir()
    (data / "banatie.db").write_bytes(gzip.decompress(BEFORE_MODE.read_bytes()))
    return data


@pytest.fixture
def migrated(old: Path):
    """The same, migrated."""
    database = Database(old / "banatie.db")
    assert database.migrate()[:1] == ["rename_way_to_mode"]
    yield database
    database.close()


def _columns(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(generations)")]
    connection.close()
    return columns


def _stored(path: Path, columns: list[str]) -> list[tuple[object, ...]]:
    """These columns of every generation as the file has them."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute(f"SELECT {', '.join(columns)} FROM generations ORDER BY number")
        stored = [tuple(row) for row in rows]
    connection.close()
    return stored


def test_the_way_of_an_enhancement_becomes_its_mode(migrated: Database) -> None:
    led, free, waiting = Generations(migrated).changed_since(0)
    assert led.enhancement == EnhancementNote("general", "small", "guided", 0.5)
    assert free.enhancement == EnhancementNote("comic", "large", "free", 1.25)
    assert waiting.enhancement is None
    texts = [row[0] for row in migrated.query("SELECT enhancement FROM generations")]
    assert [text for text in texts if text is not None and '"way"' in text] == []


def test_renaming_changes_nothing_else(old: Path) -> None:
    columns = _columns(old / "banatie.db")
    columns.remove("enhancement")
    before = _stored(old / "banatie.db", columns)
    assert len(before) == 3
    database = Database(old / "banatie.db")
    revision = Generations(database).latest_revision()
    database.migrate()
    assert Generations(database).latest_revision() == revision
    database.close_checkpointed()
    assert _stored(old / "banatie.db", columns) == before


def test_rows_keys_and_statistics_are_those_of_before(migrated: Database) -> None:
    done, failed, waiting = Generations(migrated).changed_since(0)
    assert (done.status, done.prompt, done.meta) == ("success", "A cat, sunlit", {"order": 1})
    assert done.image is not None
    assert (done.image.width, done.image.file_size, done.updated_at) == (8, 3, 5000)
    assert (failed.status, failed.error_message) == ("failed", "Out of memory")
    assert failed.loras == (LoraUse("ink", 0.5),)
    assert (waiting.status, waiting.stage) == ("pending", "paint")
    keys = Keys(migrated)
    laptop, guest = keys.all()
    assert keys.authenticate("bnt_of-an-older-database") == laptop
    assert (is_active(laptop, 9000), is_active(guest, 9000)) == (True, False)
    assert (laptop.requests_per_hour, guest.project.slug) == (7, "other")
    assert keys.request_counts() == {laptop.id: (0, 3)}
    statistics = read_statistics(migrated, 9000)
    assert statistics.accepted == 3
    assert statistics.ended == {("success", ""): 1, ("failed", "out_of_memory"): 1}
    assert statistics.durations["enhance"].seconds == pytest.approx(1.4)
    assert [worker.device for worker in Workers(migrated).present(9000)] == ["cpu"]
    claimed = Claims(migrated, "worker-2").claim("paint", 10_000)
    assert claimed is not None
    assert claimed.id == waiting.id


def test_the_keys_and_the_project_of_before_go_on(migrated: Database) -> None:
    keys = Keys(migrated)
    laptop, guest = keys.all()
    assert (laptop.type, guest.type) == ("project", "project")
    assert keys.default_project_id(9000) == laptop.project.id
    keys.create("admin", 9000, type="master")
    keys.create("another", 9000)
    assert [key.type for key in keys.all()[2:]].count("master") == 1
    assert {key.project.id for key in keys.all()} == {laptop.project.id, guest.project.id}


def test_a_backup_of_an_old_database_is_restored_migrated(old: Path, tmp_path: Path) -> None:
    storage_key = _storage_key(old)
    (old / "storage" / storage_key).parent.mkdir(parents=True)
    (old / "storage" / storage_key).write_bytes(b"png")
    write_backup(old, tmp_path / "backup", 1)
    restored = tmp_path / "restored"
    assert restore_backup(tmp_path / "backup", restored).generations == 3
    database = Database(restored / "banatie.db")
    assert database.pending() == []
    notes = [generation.enhancement for generation in Generations(database).changed_since(0)]
    assert [note.mode for note in notes if note] == ["guided", "free"]
    database.close()
    # The folder that was backed up is not migrated by it.
    database = Database(old / "banatie.db")
    assert database.pending()[:1] == ["rename_way_to_mode"]
    database.close()


def _storage_key(data: Path) -> str:
    with sqlite3.connect(data / "banatie.db") as connection:
        [(storage_key,)] = connection.execute("SELECT storage_key FROM images")
    connection.close()
    return storage_key


@pytest.fixture
def before_pictures(tmp_path: Path) -> Path:
    """The database of the version before flows, aliases and references."""
    path = tmp_path / "banatie.db"
    path.write_bytes(gzip.decompress(BEFORE_PICTURES.read_bytes()))
    return path


def _structure(path: Path) -> set[tuple[str, str]]:
    """The names of everything that hangs on the table of generations."""
    with sqlite3.connect(path) as connection:
        found = connection.execute(
            "SELECT type, name FROM sqlite_master WHERE tbl_name = 'generations'"
        ).fetchall()
    connection.close()
    return set(found)


def test_pictures_as_input_leave_the_old_rows_as_they_are(before_pictures: Path) -> None:
    columns, structure = _columns(before_pictures), _structure(before_pictures)
    before = _stored(before_pictures, columns)
    assert len(before) == 4
    database = Database(before_pictures)
    assert database.migrate()[:1] == ["add_pictures_as_input"]
    database.check()
    assert database.query("PRAGMA foreign_key_check") == []
    cat, dog, hen, cow = Generations(database).changed_since(0)
    assert (cat.output_format, cat.reference_images, cat.flow_id, cat.width) == (
        "png",
        (),
        None,
        None,
    )
    assert cat.image is not None
    assert (cat.image.source, cat.image.meta, cat.image.generation_id) == ("generated", {}, cat.id)
    assert (dog.status, hen.deleted_at, cow.steps) == ("failed", 8500, 3)
    database.close_checkpointed()
    assert _stored(before_pictures, columns) == before
    assert _structure(before_pictures) >= structure


def test_counts_and_numbers_go_on_after_pictures_as_input(before_pictures: Path) -> None:
    database = Database(before_pictures)
    database.migrate()
    generations, project_id = Generations(database), Keys(database).default_project_id(1)
    # The triggers count, and the number of the deleted row is not used again.
    assert read_statistics(database, 9000).accepted == 5
    generations.submit(project_id, Submission("A fox"), 10_000, queue_size=9)
    assert read_statistics(database, 10_000).accepted == 6
    assert database.scalar("SELECT max(number) FROM generations") == 6
    assert generations.count() == 5
    claims = Claims(database, "worker-2")
    cow = claims.claim("paint", 10_000)
    assert cow is not None
    assert cow.prompt == "A cow"
    assert claims.fail(cow.id, "No", 10_001)
    assert read_statistics(database, 10_002).ended[("failed", "unforeseen")] == 1
    database.close()


def test_a_success_may_lose_its_image_and_another_run_keeps_it(before_pictures: Path) -> None:
    database = Database(before_pictures)
    database.migrate()
    with database.writing() as connection:
        connection.execute("UPDATE generations SET status = 'pending', stage = 'paint'")
        connection.execute("UPDATE generations SET status = 'success', stage = 'done'")
        connection.execute("DELETE FROM images")
    assert [each.image for each in Generations(database).changed_since(0)] == [None] * 4
    database.close()


def test_a_database_of_the_first_version_keeps_its_rows(tmp_path):
    path = tmp_path / "banatie.db"
    with sqlite3.connect(path, isolation_level=None) as connection:
        migrations.apply(sqlite_utils.Database(connection), stop_before="add_measures")
        connection.execute("INSERT INTO organizations VALUES ('o', 'default', 1)")
        connection.execute("INSERT INTO projects VALUES ('p', 'o', 'default', 1)")
        connection.execute(
            "INSERT INTO generations (id, project_id, revision, status, stage, prompt, "
            "original_prompt, auto_enhance, template, aspect_ratio, negative_prompt, seed, meta, "
            "created_at, updated_at) VALUES ('old', 'p', 1, 'pending', 'paint', 'a cat', 'a cat', "
            "0, 'general', '1:1', '', 1, '{}', 5, 5)"
        )
        connection.execute(
            "INSERT INTO workers VALUES ('w', 1, 'ready', NULL, 'cpu', NULL, 'tiny', 5)"
        )
    connection.close()
    database = Database(path)
    assert database.pending() == database.migrate()
    assert database.pending() == []
    old = Claims(database, "w").claim("paint", 9)
    assert (old.id, old.request_id, old.loras) == ("old", None, ())
    Claims(database, "w").fail("old", "No", 9)
    assert read_statistics(database, 9).ended == {("failed", "unforeseen"): 1}
    database.close()


def test_a_database_is_brought_up_to_date_once_by_many(tmp_path):
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        applied = []
        together = threading.Barrier(6)

        def migrate(folder=folder, applied=applied, together=together) -> None:
            together.wait()
            database = Database(folder / "banatie.db")
            applied.append(database.migrate())
            database.close()

        threads = [threading.Thread(target=migrate) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(bool(names) for names in applied) == 1
        assert len(applied) == 6
        assert max(applied)[0] == "create_tables"
