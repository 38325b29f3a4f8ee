"""Keys, files, workers and the watching of changes."""

from __future__ import annotations

import queue
import sqlite3
import threading
import time

import pytest

from banatie.errors import DatabaseUnusable, NotFound, ValidationError
from banatie.store.change_watcher import ChangeWatcher
from banatie.store.database import Database
from banatie.store.files import Files, generated_key
from banatie.store.keys import counts_at
from banatie.store.workers import HEARTBEAT_TIMEOUT_MILLISECONDS, Workers, WorkerState, state_of


def test_a_key_is_found_by_its_text_which_is_nowhere_in_the_file(keys, database):
    text = keys.create("laptop", 5)
    key = keys.authenticate(text)
    assert (key.name, key.project.slug, key.project.organization_slug) == (
        "laptop",
        "default",
        "default",
    )
    assert text.startswith(key.hint)
    database.query("PRAGMA wal_checkpoint(TRUNCATE)")
    assert text.encode() not in database.path.read_bytes()
    assert keys.authenticate(text + "x") is None


def test_a_blank_name_is_refused(keys):
    with pytest.raises(ValidationError, match="name"):
        keys.create("  ", 1)


def test_keys_stop_counting_when_revoked_or_expired(keys):
    text = keys.create("a", 1, expires_at=10)
    assert counts_at(keys.authenticate(text), 9)
    assert not counts_at(keys.authenticate(text), 10)
    other = keys.create("b", 1)
    keys.revoke("b", 5)
    assert not counts_at(keys.authenticate(other), 6)


def test_revoking_needs_one_fitting_key(keys):
    keys.create("twice", 1)
    keys.create("twice", 2)
    with pytest.raises(NotFound, match="2 keys"):
        keys.revoke("twice", 3)
    with pytest.raises(NotFound, match="No key"):
        keys.revoke("never", 3)
    assert keys.revoke(keys.all()[0].id, 3).name == "twice"


def test_request_counts_are_kept(keys):
    keys.create("a", 1)
    key_id = keys.all()[0].id
    keys.save_request_counts({key_id: (5, 2)})
    keys.save_request_counts({key_id: (5, 3)})
    assert keys.request_counts() == {key_id: (5, 3)}


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "banatie.db"
    path.write_bytes(b"not a database, but long enough to be read as the header of one" * 20)
    with pytest.raises(DatabaseUnusable, match=r"banatie\.db"):
        Database(path).migrate()


def test_a_failed_transaction_leaves_nothing(database, project_id):
    insert = "INSERT INTO organizations VALUES (?, 'new', 1)"
    with pytest.raises(sqlite3.IntegrityError), database.writing() as connection:
        connection.executemany(insert, [("first",), ("second",)])
    assert database.first("SELECT 1 FROM organizations WHERE slug = 'new'") is None


def test_threads_that_write_at_once_share_a_commit_and_only_the_faulty_part_is_lost(database):
    insert = "INSERT INTO organizations VALUES (?, ?, 1)"
    failed, commits = [], []
    writer = database._writer
    writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)

    def write(number: int) -> None:
        try:
            with database.writing() as connection:
                connection.execute(insert, (f"id-{number}", f"slug-{number // 2 * 2}"))
        except sqlite3.IntegrityError:
            failed.append(number)

    with database.writing() as connection:
        connection.execute(insert, ("first", "first"))
        threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        # All of them queue for the pen that is held here.
        while database._queue_length < 20:
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    writer.set_trace_callback(None)
    assert len(failed) == 10
    assert database.first("SELECT count(*) FROM organizations WHERE slug LIKE 'slug-%'")[0] == 10
    assert len(commits) == 1


def test_files_appear_whole_and_are_found(tmp_path):
    files = Files(tmp_path)
    kept, stray = generated_key("o", "p", "1"), generated_key("o", "p", "2")
    files.save(kept, b"one")
    files.save(stray, b"two")
    files.path(kept).with_suffix(".png.part").write_bytes(b"half")
    assert files.generated() == {kept, stray, f"{kept}.part"}
    files.remove(kept)
    files.remove(kept)
    assert not files.path(kept).exists()


def test_a_worker_that_falls_silent_is_gone(database):
    workers = Workers(database)
    state = WorkerState("w", 7, "ready", device="cpu", language_model="l", painting_model="p")
    workers.report(state, 1000)
    assert workers.present(1000 + HEARTBEAT_TIMEOUT_MILLISECONDS - 1) == [state]
    assert workers.present(1000 + HEARTBEAT_TIMEOUT_MILLISECONDS) == []
    workers.forget("w")
    assert workers.present(1001) == []


def test_several_workers_are_told_of_and_only_the_dead_are_forgotten(database):
    workers = Workers(database)
    two = WorkerState("b", 8, "ready", device="cuda:1")
    starting = WorkerState("c", 9, "starting", devices=("cuda:0", "cuda:1", "cuda:2"))
    broken = WorkerState("d", 10, "broken", "No", device="cuda:2")
    one = WorkerState("z", 7, "ready", device="cuda:0")
    assert state_of(workers.present(1)) == "gone"
    for state, known in ((broken, "broken"), (starting, "starting"), (two, "ready")):
        workers.report(state, 1)
        assert state_of(workers.present(1)) == known
    workers.report(one, 1)
    assert workers.present(1)[:2] == [one, two]
    assert {worker.devices for worker in workers.present(1)} == {None, starting.devices}
    assert workers.forget_dead(lambda worker_id: worker_id in ("b", "z")) == 2
    assert workers.present(1) == [one, two]


@pytest.fixture
def watch(database):
    """Starts the watching; gives the queues of what it reports."""
    started = []

    def watch(wanted: bool = True) -> tuple[queue.Queue, queue.Queue]:
        changed: queue.Queue = queue.Queue()
        keys_changed: queue.Queue = queue.Queue()
        changes = ChangeWatcher(
            database, lambda: wanted, changed.put, lambda: keys_changed.put(True)
        )
        changes.start()
        started.append(changes)
        return changed, keys_changed

    yield watch
    for changes in started:
        changes.stop()


def test_changes_are_seen_in_order_until_the_latest(submit, watch, generations, project_id):
    before = submit()
    changed, _ = watch()
    generations.cancel(project_id, before.id, 5)
    after = submit()
    seen = changed.get(timeout=5)
    while len(seen) < 2:
        seen += changed.get(timeout=5)
    assert [(g.id, g.status) for g in seen] == [(before.id, "failed"), (after.id, "pending")]


def test_nothing_is_read_for_nobody_but_a_changed_key_is_told(submit, watch, keys):
    changed, keys_changed = watch(wanted=False)
    submit()
    keys.create("new", 5)
    assert keys_changed.get(timeout=5)
    keys.revoke("new", 6)
    assert keys_changed.get(timeout=5)
    assert changed.empty()
