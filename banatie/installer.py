"""Installs models for the server: one after the other, each in a process of its own.

An installation is a row, so it survives a restart: what was running is started again, and a
download goes on where it was. The process is a `banatie models` command, since converting a
checkpoint takes torch, which the server never imports; it ends when the server does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from banatie.errors import BanatieError, ModelError, ValidationError
from banatie.models.catalog import Catalog
from banatie.models.manifest import is_model_name
from banatie.store.installations import InstallationRow, Installations, InstallationState

T = TypeVar("T")
logger = logging.getLogger(__name__)

REPORT_SECONDS = 0.5
"""Between two writings of the progress."""
RETRY_SECONDS = 5.0
"""How long to wait after the database could not be written."""
STOP_SECONDS = 5.0
LINE_BYTES = 1_048_576
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FAILED = "It ended without a reason; the server's log may have one"


class Installer:
    """What a client can do with installations, and the task that works on them."""

    def __init__(
        self,
        rows: Installations,
        catalog: Catalog,
        command: Sequence[str],
        clock: Callable[[], int],
    ) -> None:
        """`command` starts the command line with the server's settings."""
        self._rows = rows
        self.catalog = catalog
        self._command = command
        self._clock = clock
        self._wake = asyncio.Event()
        self._running: tuple[str, asyncio.subprocess.Process] | None = None

    def pull(self, name: str) -> InstallationRow:
        """Ask for a model of the catalog, or of a hub's repository. Raises ValidationError."""
        if "/" in name:
            if not _REPOSITORY.fullmatch(name):
                raise ValidationError.of("pull", f"{name!r} is no OWNER/REPOSITORY of a hub")
        else:
            self._check_catalog(name)
        return self._rows.add("pull", name, None, self._clock())

    def import_path(self, path: str, name: str | None) -> InstallationRow:
        """Ask for a folder, a checkpoint, a LoRA or an archive of this machine.

        Raises ValidationError.
        """
        file = Path(path)
        if not file.is_absolute():
            raise ValidationError.of("path", "must be the whole path, from the root on")
        try:
            found = file.exists()
        except (OSError, ValueError):
            found = False
        if not found:
            raise ValidationError.of("path", f"{path} does not exist on the server's machine")
        if name is not None and not is_model_name(name):
            raise ValidationError.of("name", f"{name!r} cannot be the name of a model")
        return self._rows.add("import", path, name, self._clock())

    def all(self) -> list[InstallationRow]:
        """All installations, newest first."""
        return self._rows.all()

    def get(self, installation_id: str) -> InstallationRow:
        """The installation. Raises NotFound."""
        return self._rows.get(installation_id.lower())

    def cancel(self, installation_id: str) -> InstallationRow:
        """End it; what was downloaded is kept for the next time. Raises NotFound."""
        row = self._rows.get(installation_id.lower())
        self._rows.end(row.id, "cancelled", "Cancelled", self._clock())
        return self._rows.get(row.id)

    def wake(self) -> None:
        """Look at the rows now. For the event loop's thread."""
        self._wake.set()

    def stop(self, installation_id: str) -> None:
        """End the process of a cancelled installation. For the event loop's thread."""
        if self._running is not None and self._running[0] == installation_id:
            with contextlib.suppress(ProcessLookupError):
                self._running[1].terminate()

    async def run(self) -> None:
        """Work on the rows until cancelled; a running process is then stopped."""
        await self._until_written(lambda: self._rows.resume_all(self._clock()))
        while True:
            self._wake.clear()
            row = await self._until_written(lambda: self._rows.start_next(self._clock()))
            if row is None:
                await self._wake.wait()
                continue
            logger.info("installing a model: %s %s", row.kind, row.source)
            state, message = await self._install(row)
            logger.info("installing %s: %s: %s", row.source, state, message)
            end = partial(self._rows.end, row.id, state, message)
            await self._until_written(partial(end, self._clock()))

    async def _install(self, row: InstallationRow) -> tuple[InstallationState, str]:
        """Run the command of this row; the state at its end, and its last words."""
        options = ["--name", row.name] if row.name else []
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *("models", row.kind, "--for-server", *options, "--", row.source),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                limit=LINE_BYTES,
            )
        except OSError as error:
            return "failed", f"Its process cannot be started: {error.strerror}"
        self._running = (row.id, process)
        try:
            if (await asyncio.to_thread(self._rows.get, row.id)).state != "running":
                # Cancelled while the process was being started.
                self.stop(row.id)
            message = await self._follow(row, process)
            status = await process.wait()
        finally:
            self._running = None
            await _stop(process)
        if status == 0:
            return "done", message
        return "failed", message.removeprefix("banatie: ") or _FAILED

    async def _follow(self, row: InstallationRow, process: asyncio.subprocess.Process) -> str:
        """Store what the process reports; its last line that is no progress."""
        assert process.stderr is not None
        loop = asyncio.get_running_loop()
        message, done, total, stored = "", row.bytes_done, row.bytes_total, 0.0
        async for line in process.stderr:
            text = line.decode("utf-8", "replace").strip()
            progress = _progress(text)
            if progress is not None:
                done, total = progress
            elif text:
                message, stored = text, 0.0
            if loop.time() - stored >= REPORT_SECONDS:
                stored = loop.time()
                # The disk may be full; the next report comes soon.
                with contextlib.suppress(BanatieError):
                    await asyncio.to_thread(
                        self._rows.report, row.id, message, done, total, self._clock()
                    )
        return message

    async def _until_written(self, work: Callable[[], T]) -> T:
        while True:
            try:
                return await asyncio.to_thread(work)
            except BanatieError as error:
                logger.warning("installations wait for the database: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    def _check_catalog(self, name: str) -> None:
        try:
            entry = self.catalog.entry(name)
        except ModelError as error:
            raise ValidationError.of("pull", str(error)) from error
        if entry.installed:
            raise ValidationError.of("pull", f"{name} is installed already")
        if entry.model is None or entry.model.source is None:
            raise ValidationError.of("pull", f"{name} cannot be downloaded; import it")


def _progress(line: str) -> tuple[int, int] | None:
    """The bytes done and in all of a line of progress; None of another line."""
    if not line.startswith("{"):
        return None
    try:
        progress = json.loads(line)
        return int(progress["done"]), int(progress["total"])
    except (ValueError, KeyError, TypeError):
        return None


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
