"""Whether the database and the storage folder agree. Only reads; what to do is up to the caller."""

from __future__ import annotations

from dataclasses import dataclass

from banatie.store.database import Database
from banatie.store.files import UNFINISHED, Files


@dataclass(frozen=True)
class Comparison:
    """The images in the database, and what does not agree."""

    images: int
    missing: tuple[str, ...]
    """Storage keys of images without their file."""
    orphans: tuple[str, ...]
    """Storage keys of files without an image; not those that are being written."""
    broken_links: tuple[str, ...]
    """Tables with rows that refer to a row that does not exist, such as aliases to nothing."""


def compare(database: Database, files: Files) -> Comparison:
    """Compare the rows with the files. What appears or goes meanwhile is no finding."""
    before, stored = _storage_keys(database), files.stored()
    after = _storage_keys(database)
    missing = [key for key in sorted(before & after - stored) if not files.path(key).exists()]
    orphans = [
        key
        for key in sorted(stored - before - after)
        if not key.endswith(UNFINISHED) and files.path(key).exists()
    ]
    links = database.query("PRAGMA foreign_key_check")
    return Comparison(
        images=len(after),
        missing=tuple(missing),
        orphans=tuple(orphans),
        broken_links=tuple(sorted({row["table"] for row in links})),
    )


def _storage_keys(database: Database) -> set[str]:
    return {row["storage_key"] for row in database.query("SELECT storage_key FROM images")}
