"""Several workers on one data folder: who is alive, whose rows are whose, and whose files."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from banatie.errors import DataFolderBusy
from banatie.records import Image
from banatie.store.claims import Claims
from banatie.store.database import Database
from banatie.store.files import Files, generated_key
from banatie.store.images import Images
from banatie.store.locks import (
    ExclusiveRole,
    exclude_workers,
    is_alive,
    live_workers,
    register_worker,
)
from banatie.store.orphan_files import OrphanFiles

JOIN = """
import sys
from pathlib import Path
from banatie.store.locks import ExclusiveRole, register_worker
data = Path(sys.argv[1])
turn = ExclusiveRole(data, "language-model")
with register_worker(data, sys.argv[2], alone=False):
    print(turn.take(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def another(tmp_path: Path):
    """Starts processes that join as the worker of this name; gives the process."""
    started = []

    def another(name: str) -> tuple[subprocess.Popen, bool]:
        process = subprocess.Popen(
            [sys.executable, "-c", JOIN, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, process.stdout.readline() == "True\n"

    yield another
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


# Who is alive


def test_a_worker_is_at_work_until_its_process_dies(tmp_path, another):
    assert live_workers(tmp_path) == []
    process, _ = another("b")
    with register_worker(tmp_path, "a", alone=False):
        assert live_workers(tmp_path) == ["a", "b"]
        process.kill()
        process.wait()
        assert live_workers(tmp_path) == ["a"]
        assert not is_alive(tmp_path, "b")
        # Its lock's file is still there, until the next one comes in.
        assert (tmp_path / "worker-b.lock").exists()
        with register_worker(tmp_path, "c", alone=False):
            assert not (tmp_path / "worker-b.lock").exists()
            assert live_workers(tmp_path) == ["a", "c"]
    assert list(tmp_path.glob("worker-*.lock")) == []
    # Looking makes no file.
    assert not is_alive(tmp_path, "b")
    assert list(tmp_path.glob("worker-*.lock")) == []


def test_who_wants_to_be_alone_is_told_who_is_there(tmp_path, another):
    process, _ = another("b")
    with (
        pytest.raises(DataFolderBusy, match=rf"`banatie worker` \(process {process.pid}\) has"),
        register_worker(tmp_path, "a", alone=True),
    ):
        pass
    assert live_workers(tmp_path) == ["b"]
    process.kill()
    process.wait()
    with register_worker(tmp_path, "a", alone=True):
        assert live_workers(tmp_path) == ["a"]


def test_while_workers_are_barred_none_comes_in(tmp_path, monkeypatch):
    monkeypatch.setattr("banatie.store.locks.REGISTER_TIMEOUT_SECONDS", 0.05)
    with (
        exclude_workers(tmp_path, "restore"),
        pytest.raises(DataFolderBusy, match=rf"`banatie restore` \(process {os.getpid()}\)"),
        register_worker(tmp_path, "a", alone=False),
    ):
        pass
    with (
        register_worker(tmp_path, "a", alone=False),
        pytest.raises(DataFolderBusy, match="`banatie worker`"),
        exclude_workers(tmp_path, "restore"),
    ):
        pass


def test_many_come_in_at_once(tmp_path):
    inside = threading.Barrier(8)

    def come(number: int) -> None:
        with register_worker(tmp_path, f"w{number}", alone=False):
            # Nobody leaves before all are there.
            inside.wait(20)

    threads = [threading.Thread(target=come, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not inside.broken
    assert live_workers(tmp_path) == []


def test_a_turn_passes_on_when_its_process_dies(tmp_path, another):
    process, has_it = another("b")
    assert has_it
    turn = ExclusiveRole(tmp_path, "language-model")
    assert not turn.take()
    assert not turn.is_mine
    process.kill()
    process.wait()
    assert turn.take()
    assert turn.take()
    assert another("c")[1] is False
    turn.leave()
    assert not turn.is_mine
    assert another("d")[1] is True


def test_a_database_is_brought_up_to_date_once_by_many(tmp_path):
    applied = []

    def migrate() -> None:
        database = Database(tmp_path / "banatie.db")
        applied.append(database.migrate())
        database.close()

    threads = [threading.Thread(target=migrate) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(applied) == 6
    assert max(applied)[0] == "create_tables"


# Whose rows are whose


@pytest.fixture
def others(database) -> Claims:
    return Claims(database, "worker-2")


def test_only_the_dead_workers_rows_wait_again(submit, claims, others, generations):
    mine, its = (submit(auto_enhance=False).id for _ in range(2))
    claims.claim("paint", 2)
    others.claim("paint", 2)
    assert claims.other_holders() == {"worker-2"}
    assert claims.release_claims(3, but={mine}) == 0
    assert claims.release_dead("worker-2", 2, 4) == (1, 0)
    assert claims.release_dead("worker-2", 2, 4) == (0, 0)
    assert claims.other_holders() == set()
    living, dead = generations.find(mine), generations.find(its)
    assert (living.status, living.retry_count, living.crashes) == ("processing", 0, 0)
    assert (dead.status, dead.retry_count, dead.crashes) == ("pending", 1, 1)
    assert not others.holds(its)


def test_a_worker_that_goes_gives_back_its_own_rows_only(submit, claims, others, generations):
    mine, its = (submit(auto_enhance=False).id for _ in range(2))
    claims.claim("paint", 2)
    others.claim("paint", 2)
    assert claims.release_claims(3) == 1
    assert generations.find(mine).status == "pending"
    assert generations.find(its).status == "processing"


def test_a_suspicious_row_is_alone_in_its_worker_while_the_others_go_on(submit, claims, others):
    suspicious, *rest = [submit(auto_enhance=False).id for _ in range(4)]
    assert others.claim("paint", 2).id == suspicious
    assert claims.claim("paint", 2).id == rest[0]
    claims.release_dead("worker-2", 2, 3)
    # Not beside another row of the same worker, but beside those of another one.
    assert claims.claim("paint", 4) is None
    third = Claims(claims._database, "worker-3")
    assert third.claim("paint", 4).id == suspicious
    assert third.claim("paint", 4) is None
    assert claims.claim("paint", 4).id == rest[1]
    third.fail(suspicious, "No", 5)
    assert third.claim("paint", 6).id == rest[2]


def test_nobody_takes_what_is_to_be_given_up(submit, claims, others, generations):
    poison = submit(auto_enhance=False).id
    for _ in range(3):
        assert others.claim("paint", 2).id == poison
        claims.release_dead("worker-2", 2, 3)
    assert generations.find(poison).status == "failed"
    assert others.claim("paint", 4) is None


def test_what_another_enhances_again_is_not_given_up_meanwhile(submit, claims, others, generations):
    made = submit().id
    for _ in range(2):
        claims.claim("enhance", 2)
        claims.release_dead("worker-1", 9, 3)
    others.claim("enhance", 4)
    # With a lower number of retries than before.
    assert claims.give_up(0, 5) == 0
    assert generations.find(made).stage == "enhance"
    assert others.holds(made)


# Whose files


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path / "storage")


@pytest.fixture
def strays(database, files) -> OrphanFiles:
    return OrphanFiles(database, files)


def key(project_id: str, number: int) -> str:
    return generated_key("default", project_id, f"00000000-0000-4000-8000-00000000000{number}")


def test_what_no_row_knows_is_swept_at_once_when_nobody_works(
    strays, files, paint, submit, project_id
):
    submit(auto_enhance=False)
    known = paint("00000000-0000-4000-8000-000000000001").id
    assert known
    for number in (1, 2):
        files.save(key(project_id, number), b"picture")
    files.path(key(project_id, 2)).with_suffix(".png.part").write_bytes(b"half")
    strays.look()
    assert strays.sweep() == 2
    assert files.generated() == {key(project_id, 1)}
    assert strays.sweep() == 0


def test_a_file_whose_row_is_about_to_know_it_is_left(
    strays, files, submit, claims, database, project_id
):
    submit(auto_enhance=False)
    taken = claims.claim("paint", 2)
    stray, own = key(project_id, 2), key(project_id, 1)
    for name in (stray, own):
        files.save(name, b"picture")
    strays.look()
    assert strays.sweep() == 0
    assert files.generated() == {stray, own}
    _succeed(claims, taken, own)
    # What is begun after the look holds nothing up, and its file is not touched.
    submit(auto_enhance=False)
    claims.claim("paint", 4)
    late = key(project_id, 3)
    files.save(late, b"picture")
    assert strays.sweep() == 1
    assert files.generated() == {own, late}
    assert Images(database).storage_keys() == {own}


@pytest.mark.parametrize("end", ["cancel", "take back and again"])
def test_a_row_that_is_let_go_holds_the_sweep_up_no_longer(
    end, strays, files, submit, claims, generations, project_id
):
    submit(auto_enhance=False)
    taken = claims.claim("paint", 2)
    files.save(key(project_id, 1), b"picture")
    strays.look()
    if end == "cancel":
        generations.cancel(project_id, taken.id, 3)
    else:
        claims.release_claims(3)
        assert claims.claim("paint", 4).id == taken.id
    assert strays.sweep() == 1


def _succeed(claims: Claims, generation, storage_key: str) -> None:
    image_id = storage_key.rpartition("/")[2].removesuffix(".png")
    image = Image(image_id, generation.project_id, storage_key, "image/png", 8, 8, 7, 1)
    claims.start_painting(generation.id, model="m", steps=1, guidance_scale=1.0, now=2)
    assert claims.succeed(generation.id, image, 1, 3)
