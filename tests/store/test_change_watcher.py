"""Watching the database for changes."""

from __future__ import annotations

import queue

import pytest

from banatie.store.change_watcher import ChangeWatcher


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
