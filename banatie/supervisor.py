"""The supervisor: keeps the workers of `serve` running, one for each device, and restarts them.

A worker is a child process whose standard input is a pipe from here, so that it ends when this
process does, however that happens. Its standard output is a pipe to here, for heartbeats: a worker
that sends none any more is killed and replaced. Only a worker can tell what `auto` stands for,
since this process never imports torch: the first one takes the first device and names the others in
its row.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from banatie.errors import BanatieError
from banatie.model_choice import RELOAD_STATUS
from banatie.store.locks import is_alive
from banatie.store.workers import Workers

logger = logging.getLogger(__name__)

RESTART_SECONDS = (0.0, 1.0, 5.0, 15.0, 60.0)
"""The backoff: the delay before a restart, by how often in a row the worker has ended."""
STEADY_SECONDS = 300.0
"""A worker that ran for this long is restarted without a delay."""
STOP_SECONDS = 5.0
PIPE_BYTES = 65_536
READY_BEAT = b"r"
"""What a worker sends once its models are loaded; see `banatie.worker.watchdog`."""
CHECK_SECONDS = 5.0
"""How long to wait for a heartbeat before a check counts as missed. Workers send one every 2 s."""
MISSED_CHECKS = 12
"""A worker that has missed so many in a row is hung. They are counted and not timed: when this
process was suspended too, only one is missed."""
MISSED_CHECKS_LOADING = 180
"""The same for a worker that loads its models, which may hold up all of its threads."""
DISCOVERY_SECONDS = 0.5
"""How often to look for the devices that the first worker finds, which takes it seconds."""


class Supervisor:
    """Runs the workers of one `serve`."""

    def __init__(
        self,
        command: Sequence[str],
        devices: Sequence[str],
        workers: Workers,
        data: Path,
        clock: Callable[[], int],
    ) -> None:
        """`command` starts a worker on the first device, `command --device NAME` on another."""
        self._command = command
        self._devices = () if tuple(devices) == ("auto",) else tuple(devices)
        self._workers = workers
        self._is_alive = partial(is_alive, data)
        self._clock = clock

    async def run(self) -> None:
        """Run the workers and restart those that end; when cancelled, stop them."""
        # Rows of workers that were killed together with the last `serve`.
        await self._forget_dead()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_running(0))
            while not self._devices:
                await asyncio.sleep(DISCOVERY_SECONDS)
                self._devices = await self._discovered_devices()
            for number in range(1, len(self._devices)):
                group.create_task(self._keep_running(number))

    async def _keep_running(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started = loop.time()
            # A worker that is given no device makes sure that it is the only one.
            options = ("--device", self._devices[number]) if len(self._devices) > 1 else ()
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *("--heartbeat", *options),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            watching = asyncio.create_task(_kill_if_hung(process))
            try:
                status = await process.wait()
            except asyncio.CancelledError:
                await _stop(process)
                raise
            finally:
                watching.cancel()
            # Does not wait for the heartbeat timeout.
            await self._forget_dead()
            if status == RELOAD_STATUS:
                failures = 0
                logger.info("a worker loads another model")
                continue
            failures = 0 if loop.time() - started > STEADY_SECONDS else failures + 1
            delay = RESTART_SECONDS[min(failures, len(RESTART_SECONDS)) - 1] if failures else 0.0
            device = f" on {self._devices[number]}" if options else ""
            logger.error(
                "the worker%s ended with status %s; restarting it in %g s", device, status, delay
            )
            await asyncio.sleep(delay)

    async def _discovered_devices(self) -> tuple[str, ...]:
        """The devices that the first worker has found; none before it has looked."""
        with contextlib.suppress(BanatieError):
            workers = await asyncio.to_thread(self._workers.present, self._clock())
            return next((worker.devices for worker in workers if worker.devices), ())
        return ()

    async def _forget_dead(self) -> None:
        # The disk may be full; the rows expire by themselves.
        with contextlib.suppress(BanatieError):
            await asyncio.to_thread(self._workers.forget_dead, self._is_alive)


async def _kill_if_hung(process: asyncio.subprocess.Process) -> None:
    """Kill the worker if it stops sending heartbeats; return when it has closed its output."""
    assert process.stdout is not None
    missed, limit = 0, MISSED_CHECKS_LOADING
    while missed < limit:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                beats = await process.stdout.read(PIPE_BYTES)
        except TimeoutError:
            missed += 1
            continue
        if not beats:
            return
        missed, limit = 0, MISSED_CHECKS if beats.endswith(READY_BEAT) else MISSED_CHECKS_LOADING
    seconds = missed * CHECK_SECONDS
    logger.error(
        "the worker (process %d) has not answered for %g s; killing it", process.pid, seconds
    )
    with contextlib.suppress(ProcessLookupError):
        process.kill()


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
