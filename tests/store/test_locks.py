"""The lock files of a data folder: who is alive, who is excluded, who has an exclusive role."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from banatie.errors import DataFolderBusy
from banatie.store.locks import (
    ExclusiveRole,
    exclude_workers,
    is_alive,
    live_workers,
    register_worker,
)

JOIN = """
import sys
from pathlib import Path
from banatie.store.locks import ExclusiveRole, register_worker
data = Path(sys.argv[1])
role = ExclusiveRole(data, "language-model")
with register_worker(data, sys.argv[2], alone=False):
    print(role.acquire(), flush=True)
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
    role = ExclusiveRole(tmp_path, "language-model")
    assert not role.acquire()
    assert not role.is_mine
    process.kill()
    process.wait()
    assert role.acquire()
    assert role.acquire()
    assert another("c")[1] is False
    role.release()
    assert not role.is_mine
    assert another("d")[1] is True
