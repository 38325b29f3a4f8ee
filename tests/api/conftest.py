from __future__ import annotations

import pytest

from tests.support.api_server import serving


@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="session")
async def server(anyio_backend, tmp_path_factory):
    """One server for all tests that only use it; each has a project of its own."""
    async with serving(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture(scope="session")
async def patient(anyio_backend, tmp_path_factory):
    """A server that waits for the enhancement for longer than any test does."""
    data = tmp_path_factory.mktemp("patient")
    async with serving(data, enhancement__response_wait=30) as running:
        yield running


@pytest.fixture
def client(server):
    """A client of the server, with a key of its own project."""
    return server.client()


@pytest.fixture(scope="session")
def refused(server):
    """A client whose requests are all refused, so that it needs no project for each test."""
    return server.client(requests_per_hour=0)


@pytest.fixture
def worker(server):
    """The server's worker."""
    return server.worker
