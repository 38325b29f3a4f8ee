"""The database file: opening it, and transactions."""

from __future__ import annotations

import sqlite3

import pytest

from banatie.errors import DatabaseGone, DatabaseUnusable
from banatie.store.database import Database
from tests.support.polling import wait_until


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


@pytest.mark.parametrize("harmed", ["banatie.db", "banatie.db-wal"])
@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_file_that_is_deleted_or_replaced_takes_nothing_more(
    database, tmp_path, project_id, harmed, is_replaced
):
    other = Database(database.path)
    assert other.data_version()
    content = (tmp_path / harmed).read_bytes()
    (tmp_path / harmed).unlink()
    if is_replaced:
        (tmp_path / "new").write_bytes(content)
        (tmp_path / "new").rename(tmp_path / harmed)
    # A write notices it at once, and from then on so does every read.
    with pytest.raises(DatabaseGone), database.writing():
        pytest.fail("nothing is to be written")
    with pytest.raises(DatabaseGone, match="deleted or replaced"):
        database.query("SELECT 1")

    def is_noticed() -> bool:
        try:
            other.query("SELECT 1")
        except DatabaseGone:
            return True
        return False

    wait_until(is_noticed, "a database that only reads to notice it")
    assert (tmp_path / harmed).exists() == is_replaced
    other.close()


def test_a_file_deleted_during_a_transaction_is_no_success(database, tmp_path, project_id):
    def write() -> None:
        with database.writing() as connection:
            connection.execute("UPDATE organizations SET slug = 'other'")
            (tmp_path / "banatie.db").unlink()

    with pytest.raises(DatabaseGone):
        write()


def test_the_words_of_sql_stay_in_the_log(database, caplog):
    with pytest.raises(DatabaseUnusable) as raised:
        database.query("SELECT * FROM nonsense")
    assert "nonsense" not in str(raised.value)
    assert "no such table: nonsense" in caplog.text


def test_a_log_that_ended_with_its_last_connection_is_no_loss(database, project_id):
    assert database.path.with_name("banatie.db-wal").exists()
    database.close()
    assert not database.path.with_name("banatie.db-wal").exists()
    assert len(database.query("SELECT 1 FROM organizations")) == 1
    with database.writing() as connection:
        connection.execute("UPDATE organizations SET slug = 'other'")
