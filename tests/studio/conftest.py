"""A real server with the bundled model, a real browser, and pages of it that are signed in.

A test that needs a server of its own, to stop it or to change its settings, takes `new_service`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.support.service import ROOT, Service, TinyModels
from tests.support.studio_browser import NARROW, WIDE, Problems, new_context, running_browser

MODELS = TinyModels(painting=Path("banatie-small"), language=Path("smollm2-135m-instruct"))


def service_with_bundled_model(folder: Path, **settings: str) -> Service:
    """A service, not started, that paints with the bundled model."""
    return Service(folder, MODELS, **{"storage__models_dir": str(ROOT / "models"), **settings})


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running server, shared by all tests that don't stop it."""
    running = service_with_bundled_model(tmp_path_factory.mktemp("studio"))
    try:
        running.serve()
        yield running
    finally:
        left = running.close()
    assert not left, f"processes outlived their service: {left}"
    assert running.foreign_addresses() == []
    assert "Traceback" not in running.log.read_text()


@pytest.fixture
def new_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Makes services with their own data folder, where no process runs yet."""
    with ExitStack() as made:

        def make(**settings: str) -> Service:
            service = service_with_bundled_model(tmp_path, **settings)
            made.callback(service.close)
            return service

        yield make


# Of a module, and not of the session: while Playwright runs, no other event loop can.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(params=[WIDE, NARROW], ids=["wide", "narrow"])
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    """The window's size; a test that uses it, or `page`, runs at both."""
    return request.param


@pytest.fixture
def profile(
    service: Service, browser: Browser, size: tuple[int, int]
) -> Iterator[tuple[BrowserContext, Problems]]:
    with new_context(browser, service.url, size) as context_and_problems:
        yield context_and_problems


@pytest.fixture
def context(profile: tuple[BrowserContext, Problems]) -> BrowserContext:
    """A fresh profile, not signed in."""
    return profile[0]


@pytest.fixture
def problems(profile: tuple[BrowserContext, Problems]) -> Problems:
    """What the pages complain of; a test may allow what it provokes."""
    return profile[1]


def sign_in(context: BrowserContext, service: Service) -> None:
    """Sign the profile in with the service's key, without a page."""
    answer = context.request.post(f"{service.url}/api/v1/sessions", data={"apiKey": service.key})
    assert answer.status == 201, answer.text()


@pytest.fixture
def page(service: Service, context: BrowserContext) -> Page:
    """The studio, signed in and loaded."""
    sign_in(context, service)
    page = context.new_page()
    page.goto("/")
    page.get_by_role("button", name="Make", exact=True).wait_for()
    return page
