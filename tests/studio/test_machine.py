"""The machine's page and the first minutes, as the owner and as a guest see them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from banatie.models.bundled import model_folder
from tests.support.service import Service
from tests.support.studio_browser import Problems, accessibility_violations, new_context

SECONDS = 60_000
"""A command imports what it needs, beside other tests."""


@pytest.fixture
def machine(service: Service, context: BrowserContext) -> Page:
    """The machine's page, signed in as the owner."""
    page = context.new_page()
    sign_in_as_owner(page, service)
    page.get_by_role("link", name="Machine", exact=True).click()
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    return page


def sign_in_as_owner(page: Page, service: Service) -> None:
    done = service.run("open", "--print")
    assert done.returncode == 0, done.stderr
    page.goto(done.stdout.strip())
    expect(page.get_by_role("link", name="Machine", exact=True)).to_be_visible()


def test_it_says_what_runs_and_why_it_fits(machine: Page) -> None:
    expect(machine.get_by_text("banatie-small paints")).to_be_visible()
    expect(machine.get_by_text("Memory: the painting model on the device")).to_be_visible()
    expect(machine.get_by_text("Because it takes")).to_be_visible()
    expect(machine.get_by_text("Nothing is running or waiting.")).to_be_visible()
    expect(machine.get_by_text(re.compile(r"[\d.]+ [kMGT]?B free of"))).to_be_visible()
    expect(machine.get_by_role("button", name="Download sdxl-base-1.0")).to_be_visible()
    assert accessibility_violations(machine) == []
    assert machine.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_doctor_is_asked(machine: Page) -> None:
    machine.get_by_role("button", name="Examine").click()
    expect(machine.get_by_role("button", name="Examine again")).to_be_visible(timeout=SECONDS)
    expect(machine.get_by_text("intact, ").first).to_be_visible()
    assert accessibility_violations(machine) == []


def test_a_key_is_made_shown_once_and_revoked(machine: Page, service: Service) -> None:
    name = "<b>for the shop</b>"
    machine.get_by_label("New key").fill(name)
    machine.get_by_role("button", name="Create").click()
    shown = machine.get_by_text(re.compile(r"^bnt_[\w-]{20,}$"))
    expect(shown).to_be_visible()
    headers = {"X-API-Key": shown.inner_text()}
    assert service.request("GET", "/api/v1/generations", headers=headers).status_code == 200
    machine.get_by_role("button", name=f"Revoke {name}", exact=True).click()
    machine.get_by_role("button", name=f"Revoke {name} for good").click()
    expect(machine.get_by_role("button", name=f"Revoke {name}", exact=True)).to_have_count(0)
    service.wait_for(
        lambda: service.request("GET", "/api/v1/generations", headers=headers).status_code == 401,
        "the key to be refused",
    )
    machine.reload()
    expect(machine.get_by_role("heading", name="Access")).to_be_visible()
    expect(shown).to_have_count(0)


def test_another_browser_is_signed_out(machine: Page, service: Service, browser: Browser) -> None:
    with new_context(browser, service.url) as (other, problems):
        problems.allow("401")
        guest = other.new_page()
        sign_in_as_owner(guest, service)
        machine.reload()
        own = machine.get_by_role("listitem").filter(has_text="This one")
        expect(own).to_have_count(1)
        rest = machine.get_by_role("button", name=re.compile("^Sign out "))
        # The newest is the first.
        with machine.expect_response(lambda response: response.request.method == "DELETE"):
            rest.first.click()
        guest.reload()
        expect(guest.get_by_label("API key")).to_be_visible()


def test_what_is_no_model_is_refused_where_it_was_entered(
    machine: Page, problems: Problems
) -> None:
    problems.allow("400")
    machine.get_by_label("Add a model").fill("/nowhere/at/all")
    machine.get_by_role("button", name="Add", exact=True).click()
    expect(machine.get_by_role("alert").filter(has_text="does not exist")).to_be_visible()


def test_a_guest_is_told_who_may(service: Service, context: BrowserContext) -> None:
    context.request.post(f"{service.url}/api/v1/sessions", data={"apiKey": service.key})
    page = context.new_page()
    page.goto("/#/machine")
    expect(page.get_by_text("sign in with a master key")).to_be_visible()
    assert accessibility_violations(page) == []


def test_a_model_is_imported_used_and_paints(
    new_service: Callable[..., Service], browser: Browser, tmp_path: Path
) -> None:
    source = shutil.copytree(model_folder("banatie-small", tmp_path), tmp_path / "mine")
    service = new_service(storage__models_dir=str(tmp_path / "models"))
    service.serve()
    with new_context(browser, service.url) as (context, _):
        page = context.new_page()
        sign_in_as_owner(page, service)
        page.get_by_role("link", name="Machine", exact=True).click()
        page.get_by_label("Add a model").fill(str(source))
        page.get_by_role("button", name="Add", exact=True).click()
        page.get_by_role("button", name="Use mine").click(timeout=SECONDS)
        expect(page.get_by_text("mine paints")).to_be_visible(timeout=SECONDS)
        expect(page.get_by_role("button", name="Use banatie-small")).to_be_visible()
    assert service.paint("a cat")["model"] == "mine"
    assert service.run("models", "list").stdout.count("in use") >= 1


def test_the_first_minutes_lead_to_a_picture(
    new_service: Callable[..., Service], browser: Browser
) -> None:
    service = new_service()
    service.serve()
    with new_context(browser, service.url) as (context, _):
        page = context.new_page()
        sign_in_as_owner(page, service)
        expect(page.get_by_role("heading", name="Your first picture")).to_be_visible()
        expect(page.get_by_text("banatie models pull sdxl-lightning-4step")).to_be_visible()
        assert accessibility_violations(page) == []
        page.get_by_role("button", name="a white cat in the snow").click()
        expect(page.get_by_role("textbox", name="Prompt")).to_have_value("a white cat in the snow")
        page.get_by_role("button", name="Make", exact=True).click()
        expect(page.get_by_role("heading", name="Your first picture")).to_have_count(0)
        service.wait_for(
            lambda: [each["status"] for each in service.records()] == ["success"], "the picture", 60
        )
