"""Backing up a data folder into one file while it is in use, and restoring it.

The file is a tar archive, not compressed, because pictures do not compress further:

    banatie-backup.json     format, version and time of the backup
    storage/…               the pictures
    banatie.db              the database, as it was before the first picture was copied
    sha256                  the hash of the names, sizes and bytes of all members above

A restore unpacks and checks everything in a temporary folder inside the data folder. Renaming that
folder is the moment from which the restore has taken place. Every process that opens the data
folder first moves the restored files into their places (`finish_restore`), so a restore that is
killed has taken place completely or not at all. What the pictures and rows mean is unknown here.
"""

from __future__ import annotations

import contextlib
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
from banatie.filesystem import special_kind, sync_folder
from banatie.store.claims import Claims
from banatie.store.database import Database
from banatie.store.disk import RESERVE, is_read_only
from banatie.store.files import Files
from banatie.store.generations import Generations
from banatie.store.image_removal import remove_with_generation
from banatie.store.images import Images
from banatie.store.locks import exclude_workers, hold_role
from banatie.store.workers import Workers

FORMAT = 1
CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 4096

_HEADER, _PICTURES, _DATABASE, _CHECKSUM = "banatie-backup.json", "storage", "banatie.db", "sha256"
_PICTURE = re.compile(
    rf"{_PICTURES}/[a-z0-9][a-z0-9-]*/[0-9a-f-]{{36}}/[a-z]+/[0-9a-f-]{{36}}\.[a-z0-9]+"
)
_UNFINISHED = ".unfinished-"
_UNPACKING, _READY, _REPLACED = "restore.part", "restore.ready", "replaced"
_IGNORED = re.compile(rf".+\.lock|.+\.sock|{RESERVE}|{re.escape(_UNPACKING)}")
"""Files that an empty data folder may contain."""


@dataclass(frozen=True)
class Contents:
    """What a backup contains."""

    version: str
    """The version of Banatie that wrote it."""
    made_at: int
    generations: int
    pictures: int
    left_out: int = 0
    """Generations that were left out because their pictures are missing or damaged."""


class _Header(msgspec.Struct, rename="camel"):
    format: int
    version: str
    made_at: int


def write_backup(data: Path, target: Path, now: int) -> Contents:
    """Back up the data folder into the file `target`, atomically, while it may be in use.

    Each generation in it that succeeded has its picture. Only the owner can read the file: it
    holds prompts and pictures. Raises DataFolderUnusable if there is nothing to back up, and
    BackupUnusable if the file cannot be written, or `target` is anything but a regular file.
    """
    _refuse_special(target)
    finish_restore(data)
    if not (data / _DATABASE).is_file():
        raise DataFolderUnusable(f"{data} contains no database; is this the data folder?")
    try:
        prefix = target.name + _UNFINISHED
        # Left by a backup that was killed, or written by one that this newer backup replaces.
        for leftover in target.parent.glob(glob.escape(prefix) + "*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as folder:
            unfinished = Path(folder, "backup")
            with closing(_snapshot(data, Path(folder, _DATABASE), now)) as copy:
                unfinished.touch(mode=0o600)
                contents = _write(unfinished, copy, Files(data / _PICTURES), now)
            unfinished.replace(target)
            sync_folder(target.parent)
    except OSError as error:
        raise BackupUnusable(f"{target} cannot be written: {error.strerror}") from error
    return contents


def restore_backup(source: Path, data: Path, *, replace: bool = False) -> Contents:
    """Restore the data folder from the backup `source`, completely or not at all.

    Raises BackupUnusable if the file is not a complete backup, DataFolderBusy if a process uses the
    folder, and DataFolderUnusable if it cannot be written, or is not empty and `replace` is false.
    """
    with hold_role(data, "serve", "restore"), exclude_workers(data, "restore"):
        finish_restore(data)
        present = sorted(e.name for e in data.iterdir() if not _IGNORED.fullmatch(e.name))
        if present and not replace:
            raise DataFolderUnusable(
                f"{data} is not empty ({', '.join(present)}); --force replaces what is there"
            )
        unpacking = data / _UNPACKING
        try:
            shutil.rmtree(unpacking, ignore_errors=True)
            unpacking.mkdir()
            contents = _unpack(source, unpacking)
            if hasattr(os, "sync"):
                # Once for all files, which is quicker than an fsync for each.
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
    """Move into place what a restore had unpacked and checked when it was killed, if any.

    Every process calls this before it opens the data folder.
    """
    ready = data / _READY
    if not ready.exists():
        return
    with FileLock(data / "restore.lock"):
        # Each step checks whether it is done already: by another process, or before a kill.
        if (ready / _PICTURES).exists():
            if (data / _PICTURES).exists():
                (data / _PICTURES).rename(ready / _REPLACED)
            (ready / _PICTURES).rename(data / _PICTURES)
        if (ready / _DATABASE).exists():
            # SQLite must never apply the old database's log to the new one.
            for old in (*data.glob(f"{_DATABASE}-*"), *data.glob("queue.db*")):
                old.unlink()
            (ready / _DATABASE).replace(data / _DATABASE)
            sync_folder(data)
        shutil.rmtree(ready, ignore_errors=True)


def _refuse_special(target: Path) -> None:
    """Renaming would replace a device, a pipe or a link by a file, and never write into it."""
    try:
        found = special_kind(target, follow_links=False)
    except OSError as error:
        raise BackupUnusable(f"{target} cannot be written: {error.strerror}") from error
    if found is not None:
        raise BackupUnusable(
            f"{target} is {found}; name a regular file, or one that does not exist"
        )


def _snapshot(data: Path, path: Path, now: int) -> Database:
    """A copy of the database as it is now, migrated, with nothing claimed by a worker."""
    if not is_read_only(data):
        with closing(Database(data / _DATABASE)) as live:
            live.copy_to(path)
    else:
        # SQLite cannot open a database with a log there, but nobody changes it either.
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(data / (_DATABASE + suffix), f"{path}{suffix}")
    copy = Database(path)
    copy.check()
    copy.migrate()
    # Released without counting a crash: only in the copy do the workers lose their claims.
    for worker_id in Claims(copy, "").other_holders():
        Claims(copy, worker_id).release_claims(now)
    Workers(copy).forget_dead(lambda _: False)
    return copy


def _write(path: Path, copy: Database, files: Files, now: int) -> Contents:
    pictures = left_out = 0
    header = _Header(FORMAT, banatie.__version__, now)
    with (
        path.open("wb") as file,
        tarfile.TarFile(fileobj=file, mode="w", copybufsize=CHUNK_BYTES) as archive,
    ):
        writer = _ArchiveWriter(archive, now)
        writer.add(_HEADER, io.BytesIO(msgspec.json.encode(header)))
        for image in Images(copy).all():
            try:
                with files.path(image.storage_key).open("rb") as picture:
                    complete = os.fstat(picture.fileno()).st_size == image.file_size
                    if complete:
                        writer.add(f"{_PICTURES}/{image.storage_key}", picture)
            except FileNotFoundError:
                complete = False
            if complete:
                pictures += 1
            else:
                # Most likely deleted after the database was copied, and its row with it.
                with copy.writing() as connection:
                    remove_with_generation(connection, image.id, now)
                left_out += 1
        generations = Generations(copy).count()
        copy.close_checkpointed()
        with copy.path.open("rb") as database:
            writer.add(_DATABASE, database)
        writer.add(_CHECKSUM, io.BytesIO(writer.checksum.hexdigest().encode()))
        archive.close()
        file.flush()
        os.fsync(file.fileno())
    return Contents(header.version, now, generations, pictures, left_out)


def _unpack(source: Path, folder: Path) -> Contents:
    """Unpack the backup into the folder and check everything in it."""
    with _reporting_damage(source), tarfile.open(source, "r:") as archive:
        encoded = _read_header(archive, source)
        header = msgspec.json.decode(encoded, type=_Header)
        checksum = _Checksum()
        checksum.begin_member(_HEADER, len(encoded))
        checksum.update(encoded)
        (folder / _PICTURES).mkdir()
        pictures = 0
        while (member := _next(archive)).name != _CHECKSUM:
            known = _PICTURE.fullmatch(member.name) or member.name == _DATABASE
            if not known or not _is_plain_file(member):
                raise BackupUnusable(f"{source} contains {member.name!r}, which no backup does")
            checksum.begin_member(member.name, member.size)
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with _open_member(archive, member) as packed, path.open("xb") as file:
                while chunk := packed.read(CHUNK_BYTES):
                    checksum.update(chunk)
                    file.write(chunk)
            pictures += member.name != _DATABASE
        if _open_member(archive, member).read() != checksum.hexdigest().encode():
            raise BackupUnusable(f"{source} is damaged: its checksum does not match")
        generations = _check(folder, source)
    return Contents(header.version, header.made_at, generations, pictures)


def _read_header(archive: tarfile.TarFile, source: Path) -> bytes:
    member = _next(archive)
    if member.name != _HEADER or not _is_plain_file(member) or member.size > MAX_HEADER_BYTES:
        raise BackupUnusable(f"{source} is not a Banatie backup")
    encoded = _open_member(archive, member).read()
    if msgspec.json.decode(encoded, type=_Header).format != FORMAT:
        raise BackupUnusable(
            f"{source} was made by a newer version of Banatie; restore it with that version"
        )
    return encoded


def _is_plain_file(member: tarfile.TarInfo) -> bool:
    """Whether it is a regular file that the archive holds byte by byte: no link, no holes."""
    return member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo:
    member = archive.next()
    _forget_members(archive)
    if member is None:
        raise tarfile.ReadError("the end of the archive is missing")
    return member


def _open_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    if file is None:
        raise tarfile.ReadError(f"{member.name} is not a file")
    return file


def _forget_members(archive: tarfile.TarFile) -> None:
    """Forget the members so far; TarFile would keep all of them in memory, to find them by name."""
    archive.members.clear()  # type: ignore[attr-defined]  # an undocumented attribute


def _check(folder: Path, source: Path) -> int:
    """Check that the database is intact and has all its pictures; return how many generations."""
    path = folder / _DATABASE
    if not path.is_file():
        raise BackupUnusable(f"{source} contains no database")
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
        database.close_checkpointed()
    return generations


@contextmanager
def _reporting_damage(source: Path) -> Iterator[None]:
    """Raise BackupUnusable for whatever error malformed headers, JSON or databases cause."""
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
        raise BackupUnusable(f"{source} is damaged, or not a backup at all: {error}") from error


class _Checksum:
    """The SHA-256 of a backup's members."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def begin_member(self, name: str, size: int) -> None:
        """Hash the next member's name and its size in bytes."""
        self._hash.update(f"{name} {size}\n".encode())

    def update(self, data: bytes) -> None:
        """Hash bytes of the current member."""
        self._hash.update(data)

    def hexdigest(self) -> str:
        """The hash in hexadecimal digits."""
        return self._hash.hexdigest()


class _ArchiveWriter:
    """Adds members to a backup and hashes them."""

    def __init__(self, archive: tarfile.TarFile, now: int) -> None:
        self._archive = archive
        self._time = now // 1000
        self.checksum = _Checksum()

    def add(self, name: str, file: IO[bytes]) -> None:
        """Add the file as a member of this name."""
        member = tarfile.TarInfo(name)
        member.mtime = self._time
        member.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self.checksum.begin_member(name, member.size)
        self._archive.addfile(member, _HashingReader(file, self.checksum))
        _forget_members(self._archive)


class _HashingReader:
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: IO[bytes], checksum: _Checksum) -> None:
        self._file = file
        self._checksum = checksum

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._checksum.update(data)
        return data
