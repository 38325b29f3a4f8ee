"""Workers kept alive, each by itself; what stands in for them is a process that only reports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from banatie import supervisor
from banatie.store.database import Database
from banatie.store.workers import Workers
from banatie.supervisor import Supervisor
from tests.support.polling import wait_until_async

pytestmark = pytest.mark.anyio

WORKER = """
import os, signal, sys, threading
from pathlib import Path
from banatie.store.database import Database
from banatie.store.locks import register_worker
from banatie.store.workers import Workers, WorkerState
from banatie.worker import watchdog

watchdog.BEAT_SECONDS = 0.1
signal.signal(signal.SIGUSR1, lambda *_: os._exit(64))
data, found = Path(sys.argv[1]), tuple(filter(None, sys.argv[2].split(",")))
told = sys.argv[sys.argv.index("--device") + 1] if "--device" in sys.argv else None
dog = watchdog.Watchdog(watchdog.take_standard_output())
if told != "loading":
    dog.report_loaded()
dog.start(threading.Event())
with register_worker(data, str(os.getpid()), alone=False):
    state = WorkerState(
        str(os.getpid()),
        os.getpid(),
        "ready",
        device=f"told {told}" if told else "on its own",
        devices=None if told else found,
    )
    Workers(Database(data / "banatie.db")).report(state, 5)
    sys.stdin.read()
"""


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Kept:
    """The workers that are there."""

    def __init__(self, workers: Workers, running: asyncio.Task) -> None:
        self._workers = workers
        self.running = running

    def __call__(self) -> dict[str, list[int]]:
        """The processes by what they were told."""
        found: dict[str, list[int]] = {}
        for worker in self._workers.present(5):
            found.setdefault(worker.device, []).append(worker.pid)
        return found

    async def until(self, **counts: int) -> dict[str, list[int]]:
        """Wait until there are so many of each: by `on_its_own` or `told_DEVICE`."""
        wanted = {name.replace("_", " "): count for name, count in counts.items()}
        await wait_until_async(
            lambda: {name: len(pids) for name, pids in self().items()} == wanted, f"{wanted}"
        )
        return self()

    async def kill(self, pid: int) -> None:
        """Kill this one, and wait until that was noticed."""
        os.kill(pid, signal.SIGKILL)
        await wait_until_async(
            lambda: not any(pid in pids for pids in self().values()), f"the end of {pid}"
        )


@pytest.fixture
def supervised(database: Database, tmp_path: Path):
    """Supervises workers on these devices; the first finds those that are `found`."""

    @asynccontextmanager
    async def supervised(*devices: str, found: str = "") -> AsyncIterator[Kept]:
        workers = Workers(database)
        command = [sys.executable, "-c", WORKER, str(tmp_path), found]
        running = Supervisor(command, devices, workers, tmp_path, lambda: 5).run()
        kept = Kept(workers, asyncio.create_task(running))
        try:
            yield kept
        finally:
            kept.running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await kept.running
        for pids in kept().values():
            for pid in pids:
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)

    return supervised


@pytest.mark.parametrize(("device", "found"), [("cpu", ""), ("auto", "cuda")])
async def test_one_device_has_one_worker_that_is_told_nothing(supervised, device, found):
    async with supervised(device, found=found) as kept:
        [first] = (await kept.until(on_its_own=1))["on its own"]
        await kept.kill(first)
        after = await kept.until(on_its_own=1)
        # Another one, which is told nothing either.
        assert set(after) == {"on its own"}
        assert after["on its own"] != [first]


async def test_each_device_has_a_worker_and_one_named_twice_has_two(supervised):
    async with supervised("cpu", "gpu", "cpu") as kept:
        before = await kept.until(told_cpu=2, told_gpu=1)
        await kept.kill(before["told gpu"][0])
        # The others were not touched.
        assert (await kept.until(told_cpu=2, told_gpu=1))["told cpu"] == before["told cpu"]


async def test_the_first_says_what_there_is_and_the_others_follow(supervised, monkeypatch):
    monkeypatch.setattr(supervisor, "DISCOVERY_SECONDS", 0.05)
    async with supervised("auto", found="a,b,c") as kept:
        before = await kept.until(on_its_own=1, told_b=1, told_c=1)
        await kept.kill(before["on its own"][0])
        # It is known now, so the new one is told: it is not alone any more.
        after = await kept.until(told_a=1, told_b=1, told_c=1)
        assert after["told b"] == before["told b"]


async def test_a_worker_that_hangs_is_killed_and_replaced_but_not_while_it_loads(
    supervised, caplog, monkeypatch
):
    monkeypatch.setattr("banatie.supervisor.CHECK_SECONDS", 0.5)
    monkeypatch.setattr("banatie.supervisor.MISSED_CHECKS", 3)
    async with supervised("cpu", "loading") as kept:
        before = await kept.until(told_cpu=1, told_loading=1)
        [hung], [loading] = before["told cpu"], before["told loading"]
        for pid in (hung, loading):
            os.kill(pid, signal.SIGSTOP)
        await wait_until_async(
            lambda: kept().get("told cpu", [hung]) != [hung], "the hung worker to be replaced"
        )
        assert f"the worker (process {hung}) has not answered for 1.5 s; killing it" in caplog.text
        assert kept()["told loading"] == [loading]
        os.kill(loading, signal.SIGCONT)


async def test_who_was_there_when_all_was_killed_is_forgotten(supervised, database):
    workers = Workers(database)
    async with supervised("cpu") as kept:
        await kept.until(on_its_own=1)
    assert len(workers.present(5)) == 1
    async with supervised("gpu", "gpu") as kept:
        assert set(await kept.until(told_gpu=2)) == {"told gpu"}


async def test_a_worker_that_ends_again_and_again_waits_longer_each_time(
    supervised, caplog, monkeypatch
):
    assert list(supervisor.RESTART_SECONDS) == sorted(set(supervisor.RESTART_SECONDS))
    monkeypatch.setattr(supervisor, "RESTART_SECONDS", (0.0, 0.05, 60.0))
    async with supervised("cpu", "gpu") as kept:
        for seconds in (0, 0.05):
            before = await kept.until(told_cpu=1, told_gpu=1)
            await kept.kill(before["told gpu"][0])
            after = await kept.until(told_cpu=1, told_gpu=1)
            told = f"the worker on gpu ended with status -9; restarting it in {seconds} s"
            assert told in caplog.text
        assert after["told cpu"] == before["told cpu"]


async def test_a_worker_that_loads_another_model_is_started_again_at_once(
    supervised, caplog, monkeypatch
):
    monkeypatch.setattr(supervisor, "RESTART_SECONDS", (60.0,))
    async with supervised("cpu") as kept:
        [before] = (await kept.until(on_its_own=1))["on its own"]
        os.kill(before, signal.SIGUSR1)
        await wait_until_async(
            lambda: kept().get("on its own", [before]) != [before], "another worker"
        )
        assert "ended with status" not in caplog.text
