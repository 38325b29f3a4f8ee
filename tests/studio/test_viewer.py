"""The viewer, as a person uses it: looked at, compared, and taken further."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.support.service import Service
from tests.support.studio_browser import Problems, accessibility_violations

PROMPT = "a yellow duck on a lake"
SECONDS = 1000


@pytest.fixture(scope="module")
def ducks(service: Service) -> list[str]:
    """The ids of the same thing, from the words alone and enhanced, newest first."""
    ids = [service.paint(PROMPT, seed=7, autoEnhance=enhance)["id"] for enhance in (True, False)]
    return ids[::-1]


@pytest.fixture
def viewer(page: Page, ducks: list[str]) -> Page:
    """The plain duck, open."""
    page.goto(f"/#/picture/{ducks[0]}?q=duck")
    expect(page.get_by_role("dialog").get_by_role("img", name=PROMPT).first).to_be_visible()
    return page


def test_arrows_lead_through_the_list_and_escape_back_to_the_place(
    viewer: Page, ducks: list[str]
) -> None:
    viewer.keyboard.press("ArrowRight")
    expect(viewer.get_by_text("It became")).to_be_visible()
    assert ducks[1] in viewer.url
    viewer.keyboard.press("ArrowLeft")
    expect(viewer.get_by_text("Your words, as they are")).to_be_visible()
    viewer.keyboard.press("Escape")
    expect(viewer.get_by_role("dialog")).to_have_count(0)
    expect(viewer.locator(f'[data-picture="{ducks[0]}"]')).to_be_focused()


def test_it_is_enlarged_and_compared(viewer: Page) -> None:
    image = viewer.get_by_role("dialog").get_by_role("img", name=PROMPT).first
    fitting = image.bounding_box()["width"]
    viewer.keyboard.press("z")
    assert image.bounding_box()["width"] == pytest.approx(2 * fitting, abs=2)
    viewer.get_by_role("button", name="Compare").click()
    slider = viewer.get_by_label("How much of the left picture is shown")
    slider.focus()
    viewer.keyboard.press("ArrowRight")
    expect(slider).to_have_value("51")
    expect(viewer.get_by_text("Enhanced", exact=True)).to_be_visible()
    viewer.reload()
    expect(slider).to_be_visible()
    assert accessibility_violations(viewer) == []


def test_it_is_marked_named_and_recalled(
    viewer: Page, ducks: list[str], service: Service, problems: Problems
) -> None:
    # The browser itself reports the refused name.
    problems.allow("400")
    viewer.get_by_role("button", name="Favourite", exact=True).click()
    service.wait_for(lambda: service.get(ducks[0])["favourite"] or None, "the mark")
    viewer.get_by_role("button", name="Favourite", exact=True).click()
    service.wait_for(lambda: not service.get(ducks[0])["favourite"] or None, "the mark to go")
    name = viewer.get_by_label("Name, for prompts that refer to it")
    name.fill("not a name")
    viewer.get_by_role("button", name="Save").click()
    expect(viewer.get_by_role("dialog").get_by_role("alert").last).not_to_be_empty()
    viewer.get_by_role("button", name="All", exact=True).click()
    viewer.get_by_role("button", name="Close").first.click()
    expect(viewer.get_by_label("Prompt", exact=True)).to_have_value(PROMPT)


def test_a_variation_is_made(viewer: Page, service: Service) -> None:
    before = len(service.records())
    viewer.get_by_role("button", name="Vary").click()
    expect(viewer.get_by_text("A variation is being made")).to_be_visible()
    records = service.wait_for(
        lambda: (len(found := service.records()) > before and found) or None, "the variation"
    )
    assert any(record["originalPrompt"] == PROMPT and record["seed"] != 7 for record in records)


def test_it_is_downloaded_in_another_format(viewer: Page) -> None:
    with viewer.expect_download() as download:
        viewer.get_by_role("link", name="WebP").click()
    assert download.value.suggested_filename.endswith(".webp")
    with open(download.value.path(), "rb") as file:
        assert file.read(12)[8:] == b"WEBP"


def test_the_copied_program_makes_the_picture(
    viewer: Page, context: BrowserContext, service: Service
) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    viewer.get_by_role("button", name="Python").click()
    expect(viewer.get_by_text("The Python program copied")).to_be_visible()
    program = viewer.evaluate("navigator.clipboard.readText()")
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "BANATIE_KEY": service.key},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith(f"{service.url}/storage/")


def test_a_picture_outside_the_list_is_marked_and_unmarked(
    page: Page, ducks: list[str], service: Service
) -> None:
    page.goto(f"/#/picture/{ducks[0]}?q=elephant")
    button = page.get_by_role("button", name="Favourite", exact=True)
    for is_marked in (True, False):
        button.click()
        expect(button).to_have_attribute("aria-pressed", str(is_marked).lower())
        service.wait_for(
            lambda is_marked=is_marked: service.get(ducks[0])["favourite"] is is_marked or None,
            "the mark to change",
        )
