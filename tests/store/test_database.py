"""The database file: opening it, and transactions."""

from __future__ import annotations

import sqlite3

import pytest

from banatie.errors import DatabaseUnusable
from banatie.store.database import Database


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
