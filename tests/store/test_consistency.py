"""What does not agree between the database and the storage folder is found."""

from __future__ import annotations

import sqlite3

import pytest

from banatie.store.consistency import compare
from banatie.store.files import Files, generated_key

IDS = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(2)]


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path / "storage")


@pytest.fixture
def keys_of_images(submit, paint, files, project_id) -> list[str]:
    storage_keys = [generated_key("default", project_id, each) for each in IDS]
    for image_id, storage_key in zip(IDS, storage_keys, strict=True):
        submit(auto_enhance=False)
        paint(image_id)
        files.save(storage_key, b"png")
    return storage_keys


def test_what_agrees_is_no_finding(database, files, keys_of_images):
    with files.prepared(generated_key("o", "p", "new"), b"is being written"):
        found = compare(database, files)
    assert (found.images, found.missing, found.orphans, found.broken_links) == (2, (), (), ())


def test_rows_without_files_and_files_without_rows_are_found(database, files, keys_of_images):
    files.remove(keys_of_images[0])
    stray = generated_key("default", "p", "stray")
    files.save(stray, b"png")
    found = compare(database, files)
    assert (found.missing, found.orphans) == ((keys_of_images[0],), (stray,))


def test_aliases_to_nothing_are_found(database, files, keys_of_images, project_id):
    with sqlite3.connect(database.path) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("INSERT INTO flows VALUES (?, 'f', 1, 1)", (project_id,))
        connection.execute(
            "INSERT INTO flow_aliases VALUES (?, 'f', '@a', 'nothing')", (project_id,)
        )
    connection.close()
    assert compare(database, files).broken_links == ("flow_aliases",)
