"""One running service for all clients, and services that a test has to itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.service import Service, TinyModels


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return TinyModels.make(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, models: TinyModels) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("service"), models)
    try:
        running.serve()
        yield running
    finally:
        left = running.close()
    assert not left, f"processes outlived their service: {left}"
    assert running.foreign_addresses() == []
    assert "Traceback" not in running.log.read_text()


@pytest.fixture
def new_service(tmp_path: Path, models: TinyModels) -> Iterator[Callable[..., Service]]:
    """Makes services with their own data folder, where no process runs yet."""
    made: list[Service] = []

    def make(**settings: str) -> Service:
        folder = tmp_path / f"service-{len(made)}"
        folder.mkdir()
        made.append(Service(folder, models, **settings))
        return made[-1]

    try:
        yield make
    finally:
        left = [process for service in made for process in service.close()]
    assert not left, f"processes outlived their service: {left}"
