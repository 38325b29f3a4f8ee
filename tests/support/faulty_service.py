"""A service whose worker is started with faults, killed and replaced by a test.

The server is the real one; the workers come from a fork server, in half a second. What is checked
after a fault, the tests say.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

from tests.support.fork_server import ForkServer
from tests.support.service import Service, TinyModels
from tests.support.small_disk import Disk

Faults = dict[str, dict[str, object]]
"""Functions of `fault_injection` by name, each with its parameters."""


class FaultyService(Service):
    """A service whose worker can be killed and replaced."""

    def __init__(
        self, folder: Path, models: TinyModels, fork_server: ForkServer, **settings: str
    ) -> None:
        super().__init__(folder, models, **settings)
        self.worker: int | None = None
        """The worker's process id; None before the first and after `kill_worker`."""
        self.disk: Disk | None = None
        """The disk of the data folder, if it has one to itself."""
        self.outcomes: Counter[str] = Counter()
        """How the generations of the running test have ended."""
        self._fork_server = fork_server
        self._faults: Faults = {}
        self._forked: list[int] = []

    @property
    def server(self) -> subprocess.Popen:
        """The process that was started last by `serve` or `start`."""
        return self._processes[-1]

    # Processes

    def start_with_faults(self, *arguments: str, **faults: dict[str, object]) -> int:
        """Start a command with these faults; its process id."""
        self._forked.append(self._fork(arguments, faults))
        return self._forked[-1]

    def serve_with_faults(self, **faults: dict[str, object]) -> int:
        """Kill the server and start one with these faults; its process id, once it answers."""
        self.stop(self.server, signal.SIGKILL)
        process = self.start_with_faults("serve", "--no-worker", **faults)
        self.wait_for(lambda: self.health().status_code != 599, "the server to answer")
        return process

    def start_worker(self, **faults: dict[str, object]) -> None:
        """Start a worker with these faults."""
        self._faults = faults
        self.worker = self._fork(("worker",), faults)

    def start_worker_and_wait(self, **faults: dict[str, object]) -> None:
        """Start a worker with these faults and wait until it is ready."""
        # The log and not /health, which reports a killed worker for a while.
        before = self.log.read_text().count("the worker is ready")
        self.start_worker(**faults)

        def ready() -> bool:
            assert self.worker_is_alive(), self.tail()
            return self.log.read_text().count("the worker is ready") > before

        self.wait_for(ready, "the worker to be ready", 30)

    def restart_dead_worker(self) -> None:
        """Start another worker with the same faults if the last one has died, as `serve` does."""
        if not self.worker_is_alive():
            self.start_worker(**self._faults)

    def kill_worker(self, number: int = signal.SIGKILL) -> None:
        """Send the worker a signal and wait until it has exited."""
        if self.worker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.worker, number)
            self.wait_for(lambda: not self.worker_is_alive(), "the worker to exit", 20)
            self.worker = None

    def worker_is_alive(self) -> bool:
        """Whether the worker's process exists."""
        return self.worker is not None and is_alive(self.worker)

    def wait_until_exited(self, process: int) -> None:
        """Wait until the process has exited."""
        self.wait_for(lambda: not is_alive(process), f"process {process} to exit")

    def close(self) -> list[int]:
        """Kill all processes that are left; those that outlived the ones started here."""
        for process in self._forked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        left = super().close()
        if self.disk is not None:
            self.disk.close()
        return left

    def _fork(self, arguments: tuple[str, ...], faults: Faults) -> int:
        return self._fork_server.start(
            arguments,
            environment=self.environment,
            folder=self.folder,
            log=self.log,
            faults=faults,
            mount_namespace_of=self.disk.process if self.disk else None,
        )

    # Generations

    def wait_until_all_ended(self, records: list[dict], seconds: float = 60) -> list[dict]:
        """The records once all have ended; a worker that dies meanwhile is replaced."""

        def ended() -> list[dict]:
            self.restart_dead_worker()
            latest = [self.get(record["id"]) for record in records]
            return latest if all(r["status"] in ("success", "failed") for r in latest) else []

        latest = self.wait_for(ended, "all generations to end", seconds)
        self.count_outcomes(latest)
        return latest

    def count_outcomes(self, ended: list[dict]) -> None:
        """Add these records to the table at the end of the run."""
        for record in ended:
            self.outcomes[record["status"]] += 1
            self.outcomes["retries"] += record["retryCount"]
            if record["status"] == "failed":
                self.outcomes[f"reason: {record['errorMessage']}"] += 1

    # Files

    def counter_file(self) -> str:
        """A new file for a fault to count in."""
        return str(self.folder / f"counter-{len(list(self.folder.glob('counter-*')))}")

    def move_to_disk(self, size: str) -> None:
        """Restart the server with an empty data folder on a small disk of this size."""
        self.stop(self.server)
        folder = self.folder / "disk"
        self.disk = Disk(folder, size)
        self.environment["BANATIE_STORAGE__DATA_DIR"] = str(folder)
        self.data, self.launcher = self.disk.folder, self.disk.launcher
        self.serve("--no-worker", ready=False)

    def assert_files_match_records(self) -> None:
        """Every success has its file, of the length in its record, and there is no other file."""
        assert self.files() == self.known_files()
        for record in self.records():
            assert record["status"] in ("success", "failed"), record
            assert (record["outputImage"] is None) == (record["status"] == "failed")
            assert bool(record["errorMessage"]) == (record["status"] == "failed")
            if record["outputImage"]:
                data = self.picture(record)
                assert len(data) == record["outputImage"]["fileSize"]
                assert data.endswith(b"IEND\xaeB`\x82")


def is_alive(process: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
