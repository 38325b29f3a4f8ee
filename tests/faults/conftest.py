"""Houses: a data folder with a server on it, and workers that may be killed as often as one likes.

The server is the real one and stays; the workers come from the nursery, in half a second. `--kills`
and `--locked-seconds` say how long the longer of these tests are; with the first of them given, a
table of what became of the generations ends the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import ROOT, Service, TinyModels
from tests.support.small_disk import Disk

KILLS = 5
LOCKED_SECONDS = 3
OUTCOMES = pytest.StashKey[dict[str, Counter]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, help="kills at random moments")
    parser.addoption("--locked-seconds", type=int, help="how long the database is locked")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    config = terminalreporter.config
    if not config.getoption("kills", None):
        return
    terminalreporter.section("what became of the generations")
    terminalreporter.line(f"{'accepted':>8} {'success':>7} {'failed':>6} {'retries':>7}  test")
    for test, counts in filter(itemgetter(1), config.stash[OUTCOMES].items()):
        numbers = [sum(counts[status] for status in ("success", "failed"))]
        numbers += [counts[name] for name in ("success", "failed", "retries")]
        line = "{:>8} {:>7} {:>6} {:>7}  ".format(*numbers) + test
        terminalreporter.line(line)
        for name, number in counts.items():
            if name.startswith("reason: "):
                terminalreporter.line(f"{'':>33}{number} × {name.removeprefix('reason: ')}")


class Nursery:
    """The process that forks workers."""

    def __init__(self, folder: Path) -> None:
        self._errors = (folder / "nursery.txt").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def start(
        self,
        service: FaultyService,
        wounds: dict[str, dict[str, object]],
        arguments: Sequence[str] = ("worker",),
        **settings: str,
    ) -> int:
        """Start a worker, or another command, on the service's data folder; its process id."""
        order = {
            "arguments": arguments,
            "environment": service.environment | settings,
            "folder": str(service.folder),
            "log": str(service.log),
            "wounds": wounds,
            "place": service.disk.process if service.disk else None,
        }
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        while (answer := self._process.stdout.readline()) == "ready\n":
            pass
        return int(answer)

    def close(self) -> None:
        """End it and every worker that is left."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)
        self._errors.close()


class FaultyService(Service):
    """A service whose worker can be killed and replaced."""

    nursery: Nursery
    wounds: dict[str, dict[str, object]]
    worker: int | None = None
    ended_as: Counter
    """What became of the generations of the test that is running."""
    disk: Disk | None = None
    """The disk of the data folder, if it has one of its own."""

    def __init__(self, *arguments: Any, **settings: str) -> None:
        super().__init__(*arguments, **settings)
        self.wounds, self.ended_as, self._wounded = {}, Counter(), []

    @property
    def server(self) -> subprocess.Popen:
        """The process that was started last."""
        return self._processes[-1]

    def wounded(self, *arguments: str, **wounds: dict[str, object]) -> int:
        """Start a command with these wounds; its process id."""
        self._wounded.append(self.nursery.start(self, wounds, arguments))
        return self._wounded[-1]

    def serve_wounded(self, **wounds: dict[str, object]) -> int:
        """Kill the server and start one with these wounds instead, which is waited for."""
        self.stop(self.server, signal.SIGKILL)
        process = self.wounded("serve", "--no-worker", **wounds)
        self.wait_for(lambda: self.health().status_code != 599, "the server to answer")
        return process

    def move_to_disk(self, size: str) -> None:
        """Serve from a data folder on a small disk of its own, empty at first."""
        self.stop(self.server)
        folder = self.folder / "disk"
        self.disk = Disk(folder, size)
        self.environment["BANATIE_STORAGE__DATA_DIR"] = str(folder)
        self.data, self.launcher = self.disk.folder, self.disk.launcher
        self.serve("--no-worker", ready=False)

    def gone(self, process: int) -> None:
        """Wait until the process has ended."""
        self.wait_for(lambda: not lives(process), f"process {process} to end")

    def close(self) -> list[int]:
        """Kill whatever is left; which ones had outlived the processes that were started here."""
        for process in filter(lives, self._wounded):
            os.kill(process, signal.SIGKILL)
        left = super().close()
        if self.disk is not None:
            self.disk.close()
        return left

    def tally(self) -> str:
        """A fresh file for a wound to count in."""
        return str(self.folder / f"tally-{len(list(self.folder.glob('tally-*')))}")

    def start_worker(self, **wounds: dict[str, object]) -> None:
        """Start a worker with these wounds."""
        self.wounds = wounds
        self.worker = self.nursery.start(self, wounds)

    def hire_and_wait(self, **wounds: dict[str, object]) -> None:
        """Start a worker and wait until it is ready."""
        # The log and not /health, where a worker that was killed is present for a while.
        before = self.log.read_text().count("the worker is ready")
        self.start_worker(**wounds)

        def ready() -> bool:
            assert self.worker_lives(), self.tail()
            return self.log.read_text().count("the worker is ready") > before

        self.wait_for(ready, "the worker to be ready", 30)

    def keep_hiring(self) -> None:
        """Replace the worker if it has died, as `serve` does."""
        if not self.worker_lives():
            self.start_worker(**self.wounds)

    def kill_worker(self, number: int = signal.SIGKILL) -> None:
        """Send the worker a signal and wait until it is gone."""
        if self.worker is not None:
            if self.worker_lives():
                os.kill(self.worker, number)
            self.wait_for(lambda: not self.worker_lives(), "the worker to end", 20)
            self.worker = None

    def worker_lives(self) -> bool:
        """Whether the worker's process is there."""
        return lives(self.worker)

    def all_ended(self, records: list[dict], seconds: float = 60) -> list[dict]:
        """The records once all have ended; a worker that dies meanwhile is replaced."""

        def look() -> list[dict]:
            self.keep_hiring()
            latest = [self.get(record["id"]) for record in records]
            return latest if all(r["status"] in ("success", "failed") for r in latest) else []

        ended = self.wait_for(look, "all generations to end", seconds)
        self.tally_up(ended)
        return ended

    def tally_up(self, ended: list[dict]) -> None:
        """Count what became of these records in the table at the end of the run."""
        for record in ended:
            self.ended_as[record["status"]] += 1
            self.ended_as["retries"] += record["retryCount"]
            if record["status"] == "failed":
                self.ended_as[f"reason: {record['errorMessage']}"] += 1

    def assert_tidy(self) -> None:
        """Every success has its file, as long as its record says, and there is no other file."""
        assert self.files() == self.known_files()
        for record in self.records():
            assert record["status"] in ("success", "failed"), record
            assert (record["outputImage"] is None) == (record["status"] == "failed")
            assert bool(record["errorMessage"]) == (record["status"] == "failed")
            if record["outputImage"]:
                data = self.picture(record)
                assert len(data) == record["outputImage"]["fileSize"]
                assert data.endswith(b"IEND\xaeB`\x82")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return TinyModels.make(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def architect(
    tmp_path_factory: pytest.TempPathFactory, models: TinyModels, nursery: Nursery
) -> Callable[..., contextlib.AbstractContextManager[FaultyService]]:
    @contextlib.contextmanager
    def build(**settings: str) -> Iterator[FaultyService]:
        house = FaultyService(tmp_path_factory.mktemp("house"), models, **settings)
        house.nursery = nursery
        try:
            house.serve("--no-worker", ready=False)
            yield house
        finally:
            house.kill_worker()
            left = house.close()
        assert not left, f"processes outlived their house: {left}"

    return build


@pytest.fixture(scope="session")
def street(
    architect: Callable[..., contextlib.AbstractContextManager[FaultyService]],
) -> Iterator[FaultyService]:
    """The house that most tests share: its server never stops."""
    with architect() as house:
        yield house


@pytest.fixture
def house(street: FaultyService, request: pytest.FixtureRequest) -> Iterator[FaultyService]:
    """The shared house, without a worker before and after."""
    street.ended_as = _outcomes(request)
    yield street
    # Politely, so that it takes its mark off /health.
    street.kill_worker(signal.SIGTERM)


@pytest.fixture
def build(
    architect: Callable[..., contextlib.AbstractContextManager[FaultyService]],
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., FaultyService]]:
    """Builds houses of a test's own, with a server and no worker yet."""
    with contextlib.ExitStack() as stack:

        def build(**settings: str) -> FaultyService:
            house = stack.enter_context(architect(**settings))
            house.ended_as = _outcomes(request)
            return house

        yield build


@pytest.fixture
def own(build: Callable[..., FaultyService]) -> FaultyService:
    """A house of one's own."""
    return build()


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> int:
    """How many kills at random moments."""
    return request.config.getoption("kills", None) or KILLS


@pytest.fixture(scope="session")
def locked_seconds(request: pytest.FixtureRequest) -> int:
    """How long the database is locked."""
    return request.config.getoption("locked_seconds", None) or LOCKED_SECONDS


def lives(process: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _outcomes(request: pytest.FixtureRequest) -> Counter:
    return request.config.stash[OUTCOMES].setdefault(request.node.name, Counter())
