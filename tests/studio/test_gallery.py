"""The gallery, as a person uses it: found, selected, deleted and taken back, downloaded."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Response, Route, expect

from tests.support.service import Service
from tests.support.studio_browser import accessibility_violations


@pytest.fixture(scope="module")
def library(service: Service) -> dict[str, str]:
    """The ids of pictures of three things, by their prompts."""
    prompts = ("a red apple on a table", "a blue boat", "a green tree")
    return {prompt: service.paint(prompt, autoEnhance=False, seed=1)["id"] for prompt in prompts}


def pictures(page: Page) -> Locator:
    return page.get_by_label("Gallery").locator("[data-picture]")


def picture(page: Page, name: str) -> Locator:
    return page.get_by_label("Gallery").get_by_role("link", name=name).first


def open_gallery(page: Page, query: str) -> None:
    """Open the page anew, so that no picture of another list is still to be seen."""
    page.goto(f"/#/?q={query}")
    page.reload()
    expect(pictures(page).first).to_be_visible()


def test_a_search_stands_in_the_address(page: Page, library: dict[str, str]) -> None:
    page.get_by_label("Search prompts").fill("boat blue")
    expect(pictures(page)).to_have_count(1)
    assert "q=boat" in page.url
    page.reload()
    expect(pictures(page)).to_have_count(1)
    expect(page.get_by_label("Search prompts")).to_have_value("boat blue")
    page.get_by_label("Search prompts").fill("elephant")
    expect(page.get_by_text("No picture is like that")).to_be_visible()
    page.get_by_role("button", name="Show all").click()
    expect(picture(page, "a green tree")).to_be_visible()


def test_the_keyboard_alone_marks_deletes_and_takes_back(
    page: Page, library: dict[str, str], service: Service
) -> None:
    open_gallery(page, "boat")
    boat = picture(page, "a blue boat")
    boat.focus()
    page.keyboard.press("f")
    expect(page.get_by_label("Gallery").get_by_role("img", name="Favourite")).to_be_visible()
    page.keyboard.press("f")
    expect(page.get_by_label("Gallery").get_by_role("img", name="Favourite")).to_have_count(0)
    page.keyboard.press(" ")
    expect(page.get_by_text("1 selected")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("1 selected")).to_have_count(0)
    page.keyboard.press("Delete")
    expect(pictures(page)).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(pictures(page)).to_have_count(1)
    deleted = "deletedAt"
    service.wait_for(
        lambda: service.get(library["a blue boat"])[deleted] is None or None,
        "the picture to be back",
    )


def test_a_mark_is_taken_away_although_setting_it_takes_longer(
    page: Page, library: dict[str, str], service: Service
) -> None:
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if route.request.method == "PUT" and not held:
            held.append(route)
        else:
            route.continue_()

    open_gallery(page, "boat")
    page.route(f"**/generations/{library['a blue boat']}", hold_the_first)
    picture(page, "a blue boat").focus()
    page.keyboard.press("f")
    mark = page.get_by_label("Gallery").get_by_role("img", name="Favourite")
    expect(mark).to_be_visible()
    page.keyboard.press("f")
    expect(mark).to_have_count(0)
    # The first is let through once the second had its chance to overtake it.
    page.evaluate("fetch('health').then(() => null)")
    with page.expect_response(lambda answer: marks(answer, False)):
        held[0].continue_()
    assert service.get(library["a blue boat"])["favourite"] is False


def marks(answer: Response, is_favourite: bool) -> bool:
    request = answer.request
    return request.method == "PUT" and request.post_data_json == {"favourite": is_favourite}


def test_several_are_downloaded_as_a_zip(page: Page, library: dict[str, str]) -> None:
    open_gallery(page, "a")
    picture(page, "a green tree").focus()
    page.keyboard.press(" ")
    page.get_by_label("Select: a red apple on a table").first.click(force=True)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    content = Path(download.value.path()).read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 2


def test_a_filtered_gallery_is_accessible(page: Page, library: dict[str, str]) -> None:
    open_gallery(page, "boat")
    expect(pictures(page)).to_have_count(1)
    picture(page, "a blue boat").focus()
    page.keyboard.press(" ")
    assert accessibility_violations(page) == []
