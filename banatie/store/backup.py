"""A data folder as one file, and back, while others use the folder.

The file is a tar, not compressed, since pictures do not get smaller:

    banatie-backup.json     what this is, made when and by which version
    storage/…               the pictures
    banatie.db              the database, as it was before the first picture was copied
    sha256                  of the names, sizes and bytes of all that

A restore unpacks and checks everything in a folder of its own inside the data folder; renaming that
folder is the moment at which it has happened. Whoever opens the data folder puts the rest in place
(`finish_restore`), so that a restore that is killed has happened wholly or not at all.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
from filelock import FileLock

import banatie
from banatie.errors import BackupUnusable, DatabaseUnusable, DataFolderUnusable
from banatie.store.claims import Claims
from banatie.store.database import Database
from banatie.store.files import Files, sync_folder
from banatie.store.generations import Generations
from banatie.store.images import Images
from banatie.store.locks import exclude_workers, hold_role
from banatie.store.workers import Workers

FORMAT = 1
CHUNK_BYTES = 1 << 20
HEAD_BYTES = 4096

_HEAD, _PICTURES, _DATABASE, _SUM = "banatie-backup.json", "storage", "banatie.db", "sha256"
_PICTURE = re.compile(
    rf"{_PICTURES}/[a-z0-9][a-z0-9-]*/[0-9a-f-]{{36}}/[a-z]+/[0-9a-f-]{{36}}\.[a-z0-9]+"
)
_UNFINISHED = ".unfinished-"
_UNPACKING, _READY, _REPLACED = "restore.part", "restore.ready", "replaced"
_OF_NO_ACCOUNT = re.compile(rf".+\.lock|.+\.sock|{re.escape(_UNPACKING)}")
"""What may lie in a data folder that counts as empty."""


@dataclass(frozen=True)
class Contents:
    """What a backup holds."""

    version: str
    """The version of Banatie that made it."""
    made_at: int
    generations: int
    pictures: int
    left_out: int = 0
    """Generations that are not in it, because their pictures are not there (any more)."""


class _Head(msgspec.Struct, rename="camel"):
    format: int
    version: str
    made_at: int


def write_backup(data: Path, target: Path, now: int) -> Contents:
    """Copy the data folder into the file `target`, which appears whole or not at all.

    Each generation that succeeded is in it with its picture. What works in the folder goes on.
    Raises DataFolderUnusable when there is nothing to copy, and BackupUnusable when the file cannot
    be written.
    """
    finish_restore(data)
    if not (data / _DATABASE).is_file():
        raise DataFolderUnusable(f"{data} holds no database; is this the data folder?")
    try:
        prefix = target.name + _UNFINISHED
        # Those that wrote these were killed, or are not to finish: this backup is the newer one.
        for leftover in target.parent.glob(glob.escape(prefix) + "*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as folder:
            unfinished = Path(folder, "backup")
            with closing(_snapshot(data, Path(folder, _DATABASE), now)) as copy:
                contents = _write(unfinished, copy, Files(data / _PICTURES), now)
            unfinished.replace(target)
            sync_folder(target.parent)
    except OSError as error:
        raise BackupUnusable(f"{target} cannot be written: {error.strerror}") from error
    return contents


def restore_backup(source: Path, data: Path, *, replace: bool = False) -> Contents:
    """Make the data folder what it was when the backup `source` was made, wholly or not at all.

    Raises BackupUnusable when the file is not a whole backup, DataFolderBusy when somebody uses the
    folder, DataFolderUnusable when it cannot be written, or holds something and is not to be
    replaced.
    """
    with hold_role(data, "serve", "restore"), exclude_workers(data, "restore"):
        finish_restore(data)
        there = sorted(e.name for e in data.iterdir() if not _OF_NO_ACCOUNT.fullmatch(e.name))
        if there and not replace:
            raise DataFolderUnusable(
                f"{data} is not empty ({', '.join(there)}); --force replaces what is there"
            )
        unpacking = data / _UNPACKING
        try:
            shutil.rmtree(unpacking, ignore_errors=True)
            unpacking.mkdir()
            contents = _unpack(source, unpacking)
            if hasattr(os, "sync"):
                # Once for all files.
                os.sync()
            unpacking.rename(data / _READY)
            sync_folder(data)
        except OSError as error:
            raise DataFolderUnusable(f"{source} could not be restored: {error}") from error
        finally:
            shutil.rmtree(unpacking, ignore_errors=True)
        finish_restore(data)
    return contents


def finish_restore(data: Path) -> None:
    """Put in place what a restore has unpacked and checked, should it have been killed then.

    For everyone who opens the data folder, before they do.
    """
    ready = data / _READY
    if not ready.exists():
        return
    with FileLock(data / "restore.lock"):
        # Each step looks whether it was done already: by somebody else, or before a kill.
        if (ready / _PICTURES).exists():
            if (data / _PICTURES).exists():
                (data / _PICTURES).rename(ready / _REPLACED)
            (ready / _PICTURES).rename(data / _PICTURES)
        if (ready / _DATABASE).exists():
            # The log of the old database must never meet the new one.
            for old in (*data.glob(f"{_DATABASE}-*"), *data.glob("queue.db*")):
                old.unlink()
            (ready / _DATABASE).replace(data / _DATABASE)
            sync_folder(data)
        shutil.rmtree(ready, ignore_errors=True)


def _snapshot(data: Path, path: Path, now: int) -> Database:
    """The database as it is now, in a file of its own, with nothing in anybody's hands."""
    with closing(Database(data / _DATABASE)) as live:
        live.copy_to(path)
    copy = Database(path)
    copy.check()
    copy.migrate()
    # Nobody crashed: whoever works on these goes on with them, only not in the copy.
    for worker_id in Claims(copy, "").other_holders():
        Claims(copy, worker_id).release_claims(now)
    Workers(copy).forget_dead(lambda _: False)
    return copy


def _write(path: Path, copy: Database, files: Files, now: int) -> Contents:
    pictures = left_out = 0
    head = _Head(FORMAT, banatie.__version__, now)
    with (
        path.open("wb") as file,
        tarfile.open(fileobj=file, mode="w", copybufsize=CHUNK_BYTES) as archive,
    ):
        writer = _Writer(archive, now)
        writer.add(_HEAD, io.BytesIO(msgspec.json.encode(head)))
        for image in Images(copy).all():
            try:
                with files.path(image.storage_key).open("rb") as picture:
                    whole = os.fstat(picture.fileno()).st_size == image.file_size
                    if whole:
                        writer.add(f"{_PICTURES}/{image.storage_key}", picture)
            except FileNotFoundError:
                whole = False
            if whole:
                pictures += 1
            else:
                # Most likely deleted since the database was copied; then its row is gone by now.
                Generations(copy).delete_of_image(image.id)
                left_out += 1
        generations = Generations(copy).count()
        copy.close_whole()
        with copy.path.open("rb") as database:
            writer.add(_DATABASE, database)
        writer.add(_SUM, io.BytesIO(writer.sum.digest().encode()))
        archive.close()
        file.flush()
        os.fsync(file.fileno())
    return Contents(head.version, now, generations, pictures, left_out)


def _unpack(source: Path, folder: Path) -> Contents:
    """Unpack the backup into the folder and check everything in it."""
    with _damage_told(source), tarfile.open(source, "r:") as archive:
        head = _head(archive, source)
        total = _Sum()
        total.take(_HEAD, len(head))
        total.update(head)
        (folder / _PICTURES).mkdir()
        pictures = 0
        while (member := _next(archive)).name != _SUM:
            known = _PICTURE.fullmatch(member.name) or member.name == _DATABASE
            if not known or not _is_plain(member):
                raise BackupUnusable(f"{source} holds {member.name!r}, which no backup does")
            total.take(member.name, member.size)
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.extractfile(member) as packed, path.open("xb") as file:
                while chunk := packed.read(CHUNK_BYTES):
                    total.update(chunk)
                    file.write(chunk)
            pictures += member.name != _DATABASE
        if archive.extractfile(member).read() != total.digest().encode():
            raise BackupUnusable(f"{source} is damaged: its bytes are not those that were written")
        generations = _check(folder, source)
    about = msgspec.json.decode(head, type=_Head)
    return Contents(about.version, about.made_at, generations, pictures)


def _head(archive: tarfile.TarFile, source: Path) -> bytes:
    member = _next(archive)
    if member.name != _HEAD or not _is_plain(member) or member.size > HEAD_BYTES:
        raise BackupUnusable(f"{source} is no backup of Banatie's")
    head = archive.extractfile(member).read()
    if msgspec.json.decode(head, type=_Head).format != FORMAT:
        raise BackupUnusable(f"{source} was made by a newer Banatie; restore it with that one")
    return head


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Whether it is a file whose bytes stand in the archive, one by one."""
    return member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo:
    member = archive.next()
    # It would keep them all, for looking them up by name.
    archive.members.clear()
    if member is None:
        raise tarfile.ReadError("its end is missing")
    return member


def _check(folder: Path, source: Path) -> int:
    """Whether the database is sound and has all its pictures; how many generations it holds."""
    path = folder / _DATABASE
    if not path.is_file():
        raise BackupUnusable(f"{source} holds no database")
    files = Files(folder / _PICTURES)
    with closing(Database(path)) as database:
        database.check()
        database.migrate()
        for image in Images(database).all():
            try:
                size = files.path(image.storage_key).stat().st_size
            except FileNotFoundError:
                size = -1
            if size != image.file_size:
                raise BackupUnusable(f"{source} lacks the picture {image.storage_key}")
        generations = Generations(database).count()
        database.close_whole()
    return generations


@contextmanager
def _damage_told(source: Path) -> Iterator[None]:
    try:
        yield
    except DatabaseUnusable as error:
        raise BackupUnusable(f"{source} is damaged: {error}") from error
    except (
        tarfile.TarError,
        msgspec.DecodeError,
        FileExistsError,
        ValueError,
        OverflowError,
    ) as error:
        # What comes of headers and JSON that are not what they should be.
        raise BackupUnusable(f"{source} is damaged, or no backup at all: {error}") from error


class _Sum:
    """The SHA-256 of a backup."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def take(self, name: str, size: int) -> None:
        """Begin with the next member."""
        self._hash.update(f"{name} {size}\n".encode())

    def update(self, data: bytes) -> None:
        """Go on with its bytes."""
        self._hash.update(data)

    def digest(self) -> str:
        """In hexadecimal digits."""
        return self._hash.hexdigest()


class _Writer:
    """Adds members to a backup and sums them up."""

    def __init__(self, archive: tarfile.TarFile, now: int) -> None:
        self._archive = archive
        self._time = now // 1000
        self.sum = _Sum()

    def add(self, name: str, file: IO[bytes]) -> None:
        """Add what is left to read in the file."""
        member = tarfile.TarInfo(name)
        member.mtime = self._time
        member.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self.sum.take(name, member.size)
        self._archive.addfile(member, _Summed(file, self.sum))
        # It would keep them all, for looking them up by name.
        self._archive.members.clear()


class _Summed:
    """A file whose bytes are summed up as they are read."""

    def __init__(self, file: IO[bytes], total: _Sum) -> None:
        self._file = file
        self._sum = total

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._sum.update(data)
        return data
