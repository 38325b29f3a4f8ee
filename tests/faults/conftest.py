"""Fixtures for services that faults are injected into, and the options of these tests.

`--kills` and `--locked-seconds` say how long the longer of these tests are; with the first of them
given, a table of how the generations have ended closes the run.
"""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from operator import itemgetter

import pytest

from tests.support.faulty_service import FaultyService
from tests.support.fork_server import ForkServer
from tests.support.service import TinyModels

KILLS = 5
LOCKED_SECONDS = 3
OUTCOMES = pytest.StashKey[dict[str, Counter[str]]]()

ServiceFactory = Callable[..., contextlib.AbstractContextManager[FaultyService]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, help="kills at random moments")
    parser.addoption("--locked-seconds", type=int, help="how long the database is locked")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    config = terminalreporter.config
    if not config.getoption("kills", None):
        return
    terminalreporter.section("how the generations ended")
    terminalreporter.line(f"{'accepted':>8} {'success':>7} {'failed':>6} {'retries':>7}  test")
    for test, counts in filter(itemgetter(1), config.stash[OUTCOMES].items()):
        numbers = [sum(counts[status] for status in ("success", "failed"))]
        numbers += [counts[name] for name in ("success", "failed", "retries")]
        line = "{:>8} {:>7} {:>6} {:>7}  ".format(*numbers) + test
        terminalreporter.line(line)
        for name, number in counts.items():
            if name.startswith("reason: "):
                terminalreporter.line(f"{'':>33}{number} × {name.removeprefix('reason: ')}")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return TinyModels.make(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with contextlib.closing(ForkServer(tmp_path_factory.mktemp("fork-server"))) as started:
        yield started


@pytest.fixture(scope="session")
def service_factory(
    tmp_path_factory: pytest.TempPathFactory, models: TinyModels, fork_server: ForkServer
) -> ServiceFactory:
    """Makes services with a server and no worker yet, as context managers."""

    @contextlib.contextmanager
    def make(**settings: str) -> Iterator[FaultyService]:
        folder = tmp_path_factory.mktemp("service")
        service = FaultyService(folder, models, fork_server, **settings)
        try:
            service.serve("--no-worker", ready=False)
            yield service
        finally:
            service.kill_worker()
            left = service.close()
        assert not left, f"processes outlived their service: {left}"

    return make


@pytest.fixture(scope="session")
def shared_service(service_factory: ServiceFactory) -> Iterator[FaultyService]:
    """The service that most tests share: its server never stops."""
    with service_factory() as service:
        yield service


@pytest.fixture
def service(
    shared_service: FaultyService, request: pytest.FixtureRequest
) -> Iterator[FaultyService]:
    """The shared service, without a worker before and after."""
    shared_service.outcomes = _outcomes(request)
    yield shared_service
    # With SIGTERM, so that it removes its row and /health no longer reports it.
    shared_service.kill_worker(signal.SIGTERM)


@pytest.fixture
def new_service(
    service_factory: ServiceFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[..., FaultyService]]:
    """Makes services for one test, with a server and no worker yet."""
    with contextlib.ExitStack() as stack:

        def make(**settings: str) -> FaultyService:
            service = stack.enter_context(service_factory(**settings))
            service.outcomes = _outcomes(request)
            return service

        yield make


@pytest.fixture
def own_service(new_service: Callable[..., FaultyService]) -> FaultyService:
    """A service that the test has to itself."""
    return new_service()


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> int:
    """How many kills at random moments."""
    return request.config.getoption("kills", None) or KILLS


@pytest.fixture(scope="session")
def locked_seconds(request: pytest.FixtureRequest) -> int:
    """How long the database is locked."""
    return request.config.getoption("locked_seconds", None) or LOCKED_SECONDS


def _outcomes(request: pytest.FixtureRequest) -> Counter[str]:
    return request.config.stash[OUTCOMES].setdefault(request.node.name, Counter())
