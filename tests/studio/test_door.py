"""Getting in, as a person does: by the printed address, by a key, below a path, and out again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.studio.conftest import sign_in
from tests.support.service import Service
from tests.support.studio_browser import Problems, accessibility_violations, new_context

FIRST_PAINT_MILLISECONDS = 200


def printed_address(service: Service) -> str:
    """What `banatie open` prints."""
    done = service.run("open", "--print")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_the_printed_address_signs_in_and_leaves_no_token_behind(
    service: Service, context: BrowserContext
) -> None:
    address = printed_address(service)
    page = context.new_page()
    page.goto(address)
    expect(page.get_by_role("button", name="Make", exact=True)).to_be_visible()
    assert "token" not in page.url
    page.reload()
    expect(page.get_by_role("button", name="Make", exact=True)).to_be_visible()


def test_a_used_address_says_what_to_do(
    service: Service, browser: Browser, context: BrowserContext, problems: Problems
) -> None:
    address = printed_address(service)
    token = address.partition("token=")[2]
    used = context.request.post(f"{service.url}/api/v1/sessions", data={"token": token})
    assert used.status == 201
    context.clear_cookies()
    # The browser itself reports the refused request.
    problems.allow("401")
    page = context.new_page()
    page.goto(address)
    expect(page.get_by_label("API key")).to_be_visible()
    expect(page.get_by_text("banatie open").first).to_be_visible()


def test_a_key_signs_in(service: Service, context: BrowserContext, problems: Problems) -> None:
    page = context.new_page()
    page.goto("/")
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    problems.allow("401")
    field.fill("bnt_unknown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Unknown API key")
    field.fill(service.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Make", exact=True)).to_be_visible()
    assert service.key not in page.evaluate("JSON.stringify(localStorage)")
    assert page.evaluate("document.cookie") == ""


def test_a_session_that_is_revoked_leads_back_to_the_door(
    service: Service, page: Page, problems: Problems
) -> None:
    problems.allow("401")
    sessions = service.request("GET", "/api/v1/sessions").json()["data"]
    for session in sessions:
        service.request("DELETE", f"/api/v1/sessions/{session['id']}")
    page.get_by_role("textbox").first.fill("a red fox")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_label("API key")).to_be_visible()


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing_at_the_door(
    service: Service, browser: Browser, size: tuple[int, int], colours: str
) -> None:
    with new_context(browser, service.url, size, color_scheme=colours) as (context, _):
        page = context.new_page()
        page.goto("/")
        page.get_by_label("API key").wait_for()
        assert accessibility_violations(page) == []


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing_on_the_page(
    service: Service, browser: Browser, size: tuple[int, int], colours: str
) -> None:
    with new_context(browser, service.url, size, color_scheme=colours) as (context, _):
        sign_in(context, service)
        page = context.new_page()
        page.goto("/")
        page.get_by_role("button", name="Make", exact=True).wait_for()
        assert accessibility_violations(page) == []


def test_a_page_of_another_port_changes_nothing(
    service: Service, new_service: Callable[..., Service], page: Page
) -> None:
    other = new_service()
    other.serve("--no-worker", ready=False)
    elsewhere = page.context.new_page()
    elsewhere.goto(f"{other.url}/docs")
    # Its policy, too, would forbid the request.
    elsewhere.context.request.get(f"{other.url}/health")
    answer = page.context.request.post(
        f"{service.url}/api/v1/generations",
        data={"prompt": "a fox"},
        headers={"Origin": other.url, "Sec-Fetch-Site": "same-site"},
    )
    assert answer.status == 403


def test_the_first_start_prints_an_address_that_signs_in(
    new_service: Callable[..., Service], browser: Browser
) -> None:
    service = new_service()
    _, said = service.serve("--no-worker", ready=False)
    address = re.search(r"http://\S+/#token=\S+", said)[0]
    with new_context(browser, service.url) as (context, _):
        page = context.new_page()
        page.goto(address)
        expect(page.get_by_role("button", name="Make", exact=True)).to_be_visible()
    assert service.run("open", "--print", "--port", "1").returncode == 2


def test_without_the_studio_there_is_no_page(new_service: Callable[..., Service]) -> None:
    service = new_service()
    _, said = service.serve("--no-worker", "--no-studio", ready=False)
    assert "#token" not in said
    assert service.request("GET", "/").status_code == 404


def test_open_says_when_no_server_runs(new_service: Callable[..., Service]) -> None:
    done = new_service().run("open")
    assert (done.returncode, done.stdout) == (2, "")
    assert "banatie serve" in done.stderr


def test_the_first_paint_comes_at_once(page: Page) -> None:
    def first_paint() -> float:
        page.reload()
        page.get_by_role("button", name="Make", exact=True).wait_for()
        return page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")

    # The best of some, because other work of this machine slows single ones down.
    best, deadline = first_paint(), time.monotonic() + 20
    while best > FIRST_PAINT_MILLISECONDS and time.monotonic() < deadline:
        best = min(best, first_paint())
    assert best <= FIRST_PAINT_MILLISECONDS
