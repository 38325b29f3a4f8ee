"""Keeps the workers alive that `serve` has: one for each device, each on its own.

A worker is a child whose standard input is a pipe from here: it ends when this process does,
however that happens. What `auto` stands for only a worker can say, since this process never imports
torch: the first one takes the first device and says in its row which others there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from banatie.errors import BanatieError
from banatie.store.locks import is_alive
from banatie.store.workers import Workers

logger = logging.getLogger(__name__)

RESTART_SECONDS = (0.0, 1.0, 5.0, 15.0, 60.0)
"""The backoff: the pause before a worker that died is restarted, longer each time."""
STEADY_SECONDS = 300.0
"""A worker that lived this long starts without having to wait again."""
STOP_SECONDS = 5.0
LOOK_SECONDS = 0.5
"""How far apart the looks are for what the first worker has found, which takes it seconds."""


class Supervisor:
    """The workers of one `serve`."""

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
        """Run the workers, each again and again; when cancelled, stop them."""
        # Whatever was there when everything was killed is no more.
        await self._forget_dead()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep(0))
            while not self._devices:
                await asyncio.sleep(LOOK_SECONDS)
                self._devices = await self._found()
            for number in range(1, len(self._devices)):
                group.create_task(self._keep(number))

    async def _keep(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        deaths = 0
        while True:
            started = loop.time()
            # Alone it need not be told: then it sees to it that no other one is there.
            told = ("--device", self._devices[number]) if len(self._devices) > 1 else ()
            process = await asyncio.create_subprocess_exec(
                *self._command, *told, stdin=asyncio.subprocess.PIPE
            )
            try:
                status = await process.wait()
            except asyncio.CancelledError:
                await _stop(process)
                raise
            # At once, not when its silence is noticed.
            await self._forget_dead()
            deaths = 0 if loop.time() - started > STEADY_SECONDS else deaths + 1
            pause = RESTART_SECONDS[min(deaths, len(RESTART_SECONDS)) - 1] if deaths else 0.0
            which = f" on {self._devices[number]}" if told else ""
            logger.error(
                "the worker%s ended with status %s; starting it again in %g s", which, status, pause
            )
            await asyncio.sleep(pause)

    async def _found(self) -> tuple[str, ...]:
        """The devices that the first worker has found; none while it has not looked."""
        with contextlib.suppress(BanatieError):
            workers = await asyncio.to_thread(self._workers.present, self._clock())
            return next((worker.devices for worker in workers if worker.devices), ())
        return ()

    async def _forget_dead(self) -> None:
        # The disk may be full just now.
        with contextlib.suppress(BanatieError):
            await asyncio.to_thread(self._workers.forget_dead, self._is_alive)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
