"""Group commit: threads that write at the same time share one transaction."""

from __future__ import annotations

import sqlite3
import threading

import pytest

from tests.support.polling import wait_until


def test_threads_that_write_at_once_share_a_commit_and_only_the_faulty_part_is_lost(database):
    insert = "INSERT INTO organizations VALUES (?, ?, 1)"
    failed, commits = [], []
    writer = database._writer.connection
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
        # All of them wait for the write lock, which is held here.
        wait_until(lambda: database._writer.waiting == 20, "all threads to wait")
    for thread in threads:
        thread.join()
    writer.set_trace_callback(None)
    assert len(failed) == 10
    assert database.first("SELECT count(*) FROM organizations WHERE slug LIKE 'slug-%'")[0] == 10
    assert len(commits) == 1


def test_if_the_commit_fails_nobody_of_the_group_has_written(database):
    """The commit is refused by a foreign key that is only checked then."""
    with database.writing() as connection:
        connection.execute(
            "CREATE TABLE children (id TEXT REFERENCES organizations(id) "
            "DEFERRABLE INITIALLY DEFERRED)"
        )
    failed = []

    def write(statement: str) -> None:
        try:
            with database.writing() as connection:
                connection.execute(statement)
        except sqlite3.IntegrityError:
            failed.append(statement)

    good = "INSERT INTO organizations VALUES ('good', 'good', 1)"
    bad = "INSERT INTO children VALUES ('nobody')"
    threads = [threading.Thread(target=write, args=(statement,)) for statement in (good, bad)]

    def write_with_both() -> None:
        with database.writing():
            for thread in threads:
                thread.start()
            wait_until(lambda: database._writer.waiting == 2, "both threads to wait")

    with pytest.raises(sqlite3.IntegrityError):
        write_with_both()
    for thread in threads:
        thread.join()
    assert sorted(failed) == sorted([good, bad])
    assert database.query("SELECT * FROM organizations WHERE slug = 'good'") == []
    # The next group is not affected.
    write(good)
    assert len(database.query("SELECT * FROM organizations WHERE slug = 'good'")) == 1
