"""A data folder into one file and back; files that are no backups, or no longer."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import socket
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import banatie
from banatie.errors import BackupUnusable, DataFolderBusy, DataFolderUnusable
from banatie.records import Generation
from banatie.store.backup import Contents, restore_backup, write_backup
from banatie.store.claims import Claims
from banatie.store.database import Database
from banatie.store.files import Files
from banatie.store.generations import Generations
from banatie.store.images import Images
from banatie.store.keys import Keys
from banatie.store.locks import hold_role, register_worker
from banatie.store.workers import Workers, WorkerState

IMAGES = [f"{n}{n}{n}{n}{n}{n}{n}{n}-0000-4000-8000-000000000000" for n in range(3)]
Member = tuple[tarfile.TarInfo, bytes]


@pytest.fixture
def data(tmp_path: Path, database: Database, submit, paint, keys: Keys) -> Path:
    """The data folder of the other fixtures: three pictures, one failure, four that wait."""
    keys.create("a key", 1)
    files = Files(tmp_path / "storage")
    for image_id in IMAGES:
        submit(auto_enhance=False)
        paint(image_id)
    for image in Images(database).all():
        files.save(image.storage_key, image.id[:3].encode())
    failing = submit(auto_enhance=False)
    claims = Claims(database, "worker-1")
    claims.claim("paint", 3)
    claims.fail(failing.id, "no", 4)
    submit(auto_enhance=False)
    submit(prompt="in the worker's hands", auto_enhance=False)
    submit(auto_enhance=True)
    submit(auto_enhance=True)
    claims.claim("paint", 5)
    claims.claim("enhance", 5)
    Workers(database).report(WorkerState("worker-1", os.getpid(), "ready"), 5)
    (tmp_path / "queue.db").write_bytes(b"messages")
    return tmp_path


@pytest.fixture
def file(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it."""
    file = tmp_path_factory.mktemp("backups") / "banatie.tar"
    assert write_backup(data, file, 7) == Contents(banatie.__version__, 7, 8, 3)
    return file


@pytest.fixture
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


def test_what_is_restored_is_what_was_backed_up(data: Path, file: Path, empty: Path) -> None:
    contents = restore_backup(file, empty)
    assert contents == Contents(banatie.__version__, 7, 8, 3)
    before, after = rows(data), rows(empty)
    settled = [row for row in before if row.is_ended]
    assert len(settled) == 4
    assert [row for row in after if row.is_ended] == settled
    assert pictures(empty) == pictures(data)
    assert len(pictures(empty)) == 3
    with opened(empty) as database:
        assert [key.name for key in Keys(database).all()] == ["a key"]
        database.check()


def test_in_a_restored_folder_everything_waits_that_had_not_ended(file: Path, empty: Path) -> None:
    restore_backup(file, empty)
    waiting = [row for row in rows(empty) if not row.is_ended]
    assert {row.status for row in waiting} == {"pending"}
    assert sorted(row.stage for row in waiting) == ["enhance", "enhance", "paint", "paint"]
    # Nobody has crashed: none of them is worked on alone, or nearer to being given up.
    assert [row.crashes for row in waiting] == [0] * 4
    with opened(empty) as database:
        assert Workers(database).present(8) == []
        claims = Claims(database, "worker-2")
        taken = [claims.claim(stage, 9) for stage in ("paint", "enhance") * 2]
        assert {row.id for row in taken} == {row.id for row in waiting}
    assert not (empty / "queue.db").exists()


def test_a_backup_changes_nothing_where_it_is_made(data: Path, file: Path) -> None:
    with opened(data) as database:
        assert len(Workers(database).present(8)) == 1
    held = [row for row in rows(data) if row.status == "processing"]
    assert len(held) == 1
    assert held[0].retry_count == 0


def test_a_generation_without_its_picture_is_left_out(data: Path, empty: Path) -> None:
    with opened(data) as database:
        gone, cut, kept = (image.storage_key for image in Images(database).all())
    files = Files(data / "storage")
    files.remove(gone)
    files.path(cut).write_bytes(b"1")
    contents = write_backup(data, empty / "file", 7)
    assert (contents.generations, contents.pictures, contents.left_out) == (6, 1, 2)
    restore_backup(empty / "file", empty / "data")
    assert set(pictures(empty / "data")) == {kept}
    assert [row.image.storage_key for row in rows(empty / "data") if row.image] == [kept]


def test_a_large_picture_takes_no_more_memory_than_a_small_one(
    data: Path, database: Database, empty: Path
) -> None:
    large = 64 << 20
    [image, *_] = Images(database).all()
    with database.writing() as connection:
        connection.execute("UPDATE images SET file_size = ? WHERE id = ?", (large, image.id))
    (data / "storage" / image.storage_key).write_bytes(os.urandom(1 << 20) * 64)
    tracemalloc.start()
    try:
        write_backup(data, empty / "file", 7)
        restore_backup(empty / "file", empty / "data")
        assert tracemalloc.get_traced_memory()[1] < large / 8
    finally:
        tracemalloc.stop()
    assert len(pictures(empty / "data")[image.storage_key]) == large


def test_a_backup_appears_whole_and_replaces_the_one_before(data: Path, file: Path) -> None:
    before = file.read_bytes()
    (file.parent / "banatie.tar.unfinished-of-one-that-was-killed").mkdir()
    write_backup(data, file, 8)
    assert file.read_bytes() != before
    assert list(file.parent.iterdir()) == [file]


def test_a_backup_needs_a_data_folder_and_somewhere_to_go(data: Path, empty: Path) -> None:
    with pytest.raises(DataFolderUnusable, match="no database"):
        write_backup(empty, empty / "file", 1)
    assert list(empty.iterdir()) == []
    with pytest.raises(BackupUnusable, match="cannot be written: No such file"):
        write_backup(data, empty / "nowhere" / "file", 1)


def test_a_folder_with_something_in_it_is_not_touched_unless_it_is_to_be_replaced(
    data: Path, file: Path, empty: Path
) -> None:
    write_backup(data, file, 7)
    with opened(data) as database:
        keys = Keys(database)
        keys.create("a later key", 8)
        Generations(database).delete(keys.default_project_id(8), rows(data)[-1].id, 9)
    (data / "storage" / "stray").write_bytes(b"x")
    before = tree(data)
    with pytest.raises(DataFolderUnusable, match=r"not empty \(banatie\.db.*storage"):
        restore_backup(file, data)
    assert tree(data) == before
    restore_backup(file, data, replace=True)
    restore_backup(file, empty)
    assert rows(data) == rows(empty)
    assert tree(data / "storage") == tree(empty / "storage")
    with opened(data) as database:
        assert [key.name for key in Keys(database).all()] == ["a key"]
    assert {path.name for path in data.iterdir()} <= {
        *("banatie.db", "banatie.db-wal", "banatie.db-shm", "storage"),
        *("serve.lock", "worker.lock", "restore.lock", "migrate.lock"),
    }


@pytest.mark.parametrize("place", ["serve", "worker", "one of several workers"])
def test_a_folder_in_use_is_not_touched(file: Path, empty: Path, place: str) -> None:
    several = place not in ("serve", "worker")
    holder = "worker" if several else place
    with (
        register_worker(empty, "one", alone=False) if several else hold_role(empty, place),
        pytest.raises(DataFolderBusy, match=rf"`banatie {holder}` \(process {os.getpid()}\)"),
    ):
        restore_backup(file, empty, replace=True)
    assert {path.suffix for path in empty.iterdir()} == {".lock"}
    restore_backup(file, empty)


# Damage


@pytest.mark.parametrize("share", [0, 0.01, 0.2, 0.5, 0.8, 0.99])
def test_a_backup_that_is_cut_off_is_refused(refused: Callable, file: Path, share: float) -> None:
    data = file.read_bytes().rstrip(b"\0")
    file.write_bytes(data[: int(len(data) * share)])
    refused(file)


def test_a_backup_with_one_wrong_bit_is_refused_or_whole(file: Path, empty: Path) -> None:
    """What a tar pads with zeros counts for nothing, everything else for all."""
    whole = file.read_bytes()
    restore_backup(file, empty / "whole")
    right, chance, refusals = tree(empty / "whole" / "storage"), random.Random(3), 0
    for number in range(60):
        place = chance.randrange(len(whole))
        bad = bytearray(whole)
        bad[place] ^= 1 << chance.randrange(8)
        file.write_bytes(bad)
        target = empty / f"{number}"
        try:
            restore_backup(file, target)
        except BackupUnusable:
            refusals += 1
            assert {path.suffix for path in target.iterdir()} == {".lock"}
        else:
            assert tree(target / "storage") == right
            assert rows(target) == rows(empty / "whole")
    assert refusals > 40


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 20480, b"not a tar " * 999, b"\x1f\x8b\x08" + b"\0" * 999]
)
def test_a_file_that_is_no_backup_is_refused(refused: Callable, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    refused(file)


def _named(name: str) -> Callable[[list[Member]], None]:
    def change(members: list[Member]) -> None:
        members.insert(1, (tarfile.TarInfo(name), b"intruder"))

    return change


def _linking(kind: bytes) -> Callable[[list[Member]], None]:
    def change(members: list[Member]) -> None:
        members[1][0].type, members[1][0].linkname = kind, "/etc/passwd"
        members[1] = (members[1][0], b"")

    return change


def _sparse(members: list[Member]) -> None:
    members[1][0].pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.size": str(1 << 40)}
    members[1][0].pax_headers["GNU.sparse.map"] = "0,3"


def _newer(members: list[Member]) -> None:
    members[0] = (members[0][0], json.dumps({"format": 2, "version": "9", "madeAt": 1}).encode())


def _headless(members: list[Member]) -> None:
    members[0] = (members[0][0], b"[]")


def _other_database(members: list[Member]) -> None:
    members[-1] = (members[-1][0], b"no database at all" * 999)


FORGERIES = {
    "a path that leads out": _named("../../outside"),
    "a path that leads out below storage": _named(f"storage/o/{'.' * 36}/../../../outside"),
    "an absolute path": _named("/tmp/outside"),
    "a file that is none of ours": _named("banatie.db-wal"),
    "a picture's name and more": _named(f"storage/o/{IMAGES[0]}/generated/{IMAGES[0]}.png/x"),
    "a picture twice": lambda members: members.append(members[1]),
    "a symbolic link": _linking(tarfile.SYMTYPE),
    "a hard link": _linking(tarfile.LNKTYPE),
    "a device": _linking(tarfile.CHRTYPE),
    "a folder": _linking(tarfile.DIRTYPE),
    "a hole of a terabyte": _sparse,
    "a picture too few": lambda members: members.pop(1),
    "a picture cut": lambda members: members.insert(1, (members[1][0], members.pop(1)[1][:2])),
    "no database": lambda members: members.pop(),
    "another database": _other_database,
    "no head": lambda members: members.pop(0),
    "a head that is none": _headless,
    "a newer format": _newer,
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_backup_is_refused(refused: Callable, file: Path, forgery: str) -> None:
    """Its sum is right: somebody has made it on purpose."""
    with tarfile.open(file) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive][:-1]
    FORGERIES[forgery](members)
    total = hashlib.sha256()
    with tarfile.open(file, "w") as archive:
        for member, content in members:
            member.size = len(content)
            total.update(f"{member.name} {member.size}\n".encode() + content)
            archive.addfile(member, io.BytesIO(content))
        end = tarfile.TarInfo("sha256")
        end.size = 64
        archive.addfile(end, io.BytesIO(total.hexdigest().encode()))
    refused(file)
    assert not list(file.parent.parent.rglob("outside"))
    assert not Path("/tmp/outside").exists()


def test_forging_alone_is_not_what_is_refused(file: Path, empty: Path) -> None:
    with tarfile.open(file) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]
    with tarfile.open(file, "w") as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    restore_backup(file, empty)


@pytest.fixture
def refused(data: Path, empty: Path) -> Callable[[Path], None]:
    """Tries to restore a file into an empty folder and a full one; neither may change."""

    def refused(file: Path) -> None:
        before = tree(data)
        for target in (empty, data):
            with pytest.raises(BackupUnusable, match=str(file)):
                restore_backup(file, target, replace=True)
        assert {path.suffix for path in empty.iterdir()} == {".lock"}
        assert tree(data) == before

    return refused


def rows(data: Path) -> list[Generation]:
    """All generations of a data folder, oldest first."""
    with opened(data) as database:
        return Generations(database).changed_since(0)


class opened:
    """The database of a data folder, while it is needed."""

    def __init__(self, data: Path) -> None:
        self._database = Database(data / "banatie.db")

    def __enter__(self) -> Database:
        return self._database

    def __exit__(self, *_: object) -> None:
        self._database.close()


def pictures(data: Path) -> dict[str, bytes]:
    return tree(data / "storage")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below the folder but locks and what SQLite keeps beside its file."""
    return dict(_files(folder))


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix not in (".lock", ".db-wal", ".db-shm"):
            yield path.relative_to(folder).as_posix(), path.read_bytes()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("fifo", "a pipe"),
        ("link", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("folder", "a folder"),
        ("socket", "a socket"),
        ("device", "a device"),
    ],
)
def test_only_a_regular_file_is_replaced(data: Path, empty: Path, kind: str, named: str) -> None:
    target = empty / "target"
    if kind == "fifo":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(target))
    elif kind == "device":
        target = Path("/dev/full")
    else:
        target.symlink_to(empty / "other")
        if kind == "link":
            (empty / "other").write_bytes(b"not to be lost")
    before = target.lstat()
    with pytest.raises(BackupUnusable, match=rf"{target.name} is {named}; name a regular file"):
        write_backup(data, target, 7)
    after = target.lstat()
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert {path.name for path in empty.iterdir()} <= {"target", "other"}


def test_only_the_owner_can_read_a_backup_and_the_data(data: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        file = tmp_path / "banatie.tar"
        file.write_bytes(b"an older one that all can read")
        file.chmod(0o644)
        write_backup(data, file, 7)
        restored = tmp_path / "restored"
        restore_backup(file, restored)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert restored.stat().st_mode & 0o777 == 0o700
