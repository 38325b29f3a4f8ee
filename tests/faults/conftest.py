"""Houses: a data folder with a server on it, and workers that may be killed as often as one likes.

The server is the real one and stays; the workers come from the nursery, in half a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.service import ROOT, Service, TinyModels


class Nursery:
    """The process that forks workers."""

    def __init__(self, folder: Path) -> None:
        self._errors = (folder / "nursery.txt").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def start(self, service: Service, wounds: dict[str, dict[str, object]]) -> int:
        """Start a worker on the service's data folder; its process id."""
        order = {
            "environment": service.environment,
            "folder": str(service.folder),
            "log": str(service.log),
            "wounds": wounds,
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


class House(Service):
    """A service whose worker can be killed and replaced."""

    nursery: Nursery
    wounds: dict[str, dict[str, object]]
    worker: int | None = None

    def tally(self) -> str:
        """A fresh file for a wound to count in."""
        return str(self.folder / f"tally-{len(list(self.folder.glob('tally-*')))}")

    def hire(self, **wounds: dict[str, object]) -> None:
        """Start a worker with these wounds."""
        self.wounds = wounds
        self.worker = self.nursery.start(self, wounds)

    def hire_and_wait(self, **wounds: dict[str, object]) -> None:
        """Start a worker and wait until it is ready."""
        # The log and not /health, where a worker that was killed is present for a while.
        before = self.log.read_text().count("the worker is ready")
        self.hire(**wounds)

        def ready() -> bool:
            assert self.worker_lives(), self.tail()
            return self.log.read_text().count("the worker is ready") > before

        self.wait_for(ready, "the worker to be ready", 30)

    def keep_hiring(self) -> None:
        """Replace the worker if it has died, as `serve` does."""
        if not self.worker_lives():
            self.hire(**self.wounds)

    def dismiss(self, number: int = signal.SIGKILL) -> None:
        """Send the worker a signal and wait until it is gone."""
        if self.worker is not None:
            if self.worker_lives():
                os.kill(self.worker, number)
            self.wait_for(lambda: not self.worker_lives(), "the worker to end", 20)
            self.worker = None

    def worker_lives(self) -> bool:
        """Whether the worker's process is there."""
        try:
            os.kill(self.worker, 0)
        except ProcessLookupError:
            return False
        return True

    def all_ended(self, records: list[dict], seconds: float = 60) -> list[dict]:
        """The records once all have ended; a worker that dies meanwhile is replaced."""

        def look() -> list[dict]:
            self.keep_hiring()
            latest = [self.get(record["id"]) for record in records]
            return latest if all(r["status"] in ("success", "failed") for r in latest) else []

        return self.wait_for(look, "all generations to end", seconds)

    def assert_tidy(self) -> None:
        """Every success has its file, as long as its record says, and there is no other file."""
        assert self.files() == self.known_files()
        page = self.request("GET", "/api/v1/generations?limit=100").json()
        for record in page["data"]:
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
) -> Callable[..., contextlib.AbstractContextManager[House]]:
    @contextlib.contextmanager
    def build(**settings: str) -> Iterator[House]:
        house = House(tmp_path_factory.mktemp("house"), models, **settings)
        house.nursery, house.wounds = nursery, {}
        try:
            house.serve("--no-worker", ready=False)
            yield house
        finally:
            house.dismiss()
            left = house.close()
        assert not left, f"processes outlived their house: {left}"

    return build


@pytest.fixture(scope="session")
def street(architect: Callable[..., contextlib.AbstractContextManager[House]]) -> Iterator[House]:
    """The house that most tests share: its server never stops."""
    with architect() as house:
        yield house


@pytest.fixture
def house(street: House) -> Iterator[House]:
    """The shared house, without a worker before and after."""
    yield street
    # Politely, so that it takes its mark off /health.
    street.dismiss(signal.SIGTERM)


@pytest.fixture
def build(architect: Callable[..., contextlib.AbstractContextManager[House]]):
    """Builds houses of a test's own, with a server and no worker yet."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(architect(**settings))
