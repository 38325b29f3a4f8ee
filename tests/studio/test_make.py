"""Making pictures on the page, as a person does: by what is seen, in a real browser."""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.studio.conftest import sign_in
from tests.support.service import Service
from tests.support.studio_browser import Problems, accessibility_violations, new_context

SECONDS = 1000
PROMPT = "a red fox in the snow"
A1111 = (
    "castle on a hill, <lora:none:0.5>\nNegative prompt: people, text\n"
    'Steps: 12, Sampler: "Euler, a", CFG scale: 6.5, Seed: 1234, Size: 64x96, Model: x'
)


def prompt_of(page: Page) -> Locator:
    return page.get_by_label("Prompt", exact=True)


def made(page: Page) -> Locator:
    """The last picture with its prompts."""
    return page.get_by_role("article", name="Just made")


def unfold(page: Page) -> None:
    more = page.get_by_role("button", name="More", exact=True)
    if more.is_visible():
        more.click()


def settings(page: Page) -> None:
    unfold(page)
    page.get_by_text("More settings").click()


def slow_job(page: Page, count: int = 1) -> None:
    settings(page)
    page.get_by_label("Steps", exact=True).first.fill("100")
    page.get_by_label("Width").fill("352")
    page.get_by_label("Height").fill("352")
    page.get_by_label("How many").fill(str(count))
    prompt_of(page).fill(PROMPT)
    prompt_of(page).press("Control+Enter")


def png(parameters: str | None = None) -> dict:
    """A file as a person chooses it."""
    texts = PngInfo()
    if parameters is not None:
        texts.add_text("parameters", parameters)
    file = io.BytesIO()
    Image.new("RGB", (96, 64), (180, 90, 40)).save(file, "PNG", pnginfo=texts)
    return {"name": "hill.png", "mimeType": "image/png", "buffer": file.getvalue()}


def newest(service: Service) -> dict:
    record = service.records()[0]
    return service.wait_until_ended(record["id"])


def test_a_newcomer_has_a_picture_and_sees_what_the_prompt_became(page: Page) -> None:
    prompt_of(page).fill(PROMPT)
    page.get_by_role("button", name="Make", exact=True).click()
    expect(made(page).get_by_role("img", name=PROMPT)).to_be_visible(timeout=60 * SECONDS)
    became = made(page).get_by_label("What the prompt became")
    expect(became.get_by_text("You wrote")).to_be_visible()
    added = became.locator("ins").all_inner_texts()
    assert added
    assert not any("fox" in text for text in added)
    wide = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert wide, "the page scrolls sideways"


def test_mine_as_it_is_has_the_same_seed(page: Page, service: Service) -> None:
    prompt_of(page).fill("a cottage by a lake")
    prompt_of(page).press("Control+Enter")
    made(page).get_by_role("button", name="Use mine as it is").click(timeout=60 * SECONDS)
    expect(made(page).get_by_text("Your words, as they are")).to_be_visible(timeout=60 * SECONDS)
    mine, enhanced = service.records()[:2]
    assert not mine["autoEnhance"]
    assert mine["prompt"] == "a cottage by a lake"
    assert service.get(mine["id"])["seed"] == service.get(enhanced["id"])["seed"]


def test_the_enhanced_prompt_can_be_edited(page: Page, service: Service) -> None:
    prompt_of(page).fill("a cottage by a lake")
    prompt_of(page).press("Control+Enter")
    made(page).get_by_role("button", name="Edit: It became").click(timeout=60 * SECONDS)
    made(page).get_by_role("textbox", name="It became").fill("a blue cottage")
    made(page).get_by_role("button", name="Make this").click()
    expect(made(page).get_by_text("a blue cottage")).to_be_visible(timeout=60 * SECONDS)
    assert newest(service)["prompt"] == "a blue cottage"


def test_the_draft_survives_a_reload(page: Page) -> None:
    prompt_of(page).fill("ثعلب أحمر <img src=x onerror=alert(1)>")
    unfold(page)
    page.get_by_label("16:9").check()
    page.get_by_label("Comic").check()
    page.reload()
    expect(prompt_of(page)).to_have_value("ثعلب أحمر <img src=x onerror=alert(1)>")
    expect(page.get_by_label("16:9")).to_be_checked()
    expect(page.get_by_label("Comic")).to_be_checked()


def test_jobs_show_their_place_and_can_be_cancelled(page: Page, service: Service) -> None:
    slow_job(page, count=3)
    cards = page.get_by_label("Now", exact=True).get_by_role("listitem")
    expect(cards).to_have_count(3)
    expect(cards.first.get_by_text("Painting")).to_be_visible(timeout=60 * SECONDS)
    expect(cards.first.locator("img")).to_be_visible()
    expect(cards.nth(1).get_by_text("Next")).to_be_visible()
    expect(cards.nth(2).get_by_text("#2 in the queue")).to_be_visible()
    for left in (2, 1, 0):
        cards.last.get_by_role("button", name="Cancel").click()
        expect(cards).to_have_count(left)
    for record in service.records()[:3]:
        assert service.wait_until_ended(record["id"])["errorMessage"] == "Cancelled"


def test_a_job_goes_on_after_a_restart_of_the_server(
    new_service: Callable[..., Service], browser: Browser
) -> None:
    service = new_service()
    process, _ = service.serve()
    with new_context(browser, service.url) as (context, problems):
        # What the browser says of a server that is gone.
        problems.allow("Failed to load resource: net::")
        sign_in(context, service)
        page = context.new_page()
        page.goto("/")
        page.evaluate("window.isTheSamePage = true")
        slow_job(page)
        expect(page.get_by_text("Painting")).to_be_visible(timeout=60 * SECONDS)
        service.stop(process)
        expect(page.get_by_text("Reconnecting")).to_be_visible()
        service.serve()
        expect(page.get_by_text("Reconnecting")).to_be_hidden()
        expect(made(page)).to_be_visible(timeout=120 * SECONDS)
        assert page.evaluate("window.isTheSamePage")


def test_a_failed_job_says_why_and_is_made_again(page: Page, service: Service) -> None:
    unfold(page)
    page.locator("input[type=file]").set_input_files(png())
    expect(page.get_by_role("img", name="Reference")).to_be_visible()
    uploads = (service.data / "storage").rglob("uploaded/*.png")
    file = max(uploads, key=lambda path: path.stat().st_mtime_ns)
    content = file.read_bytes()
    file.unlink()
    prompt_of(page).fill(PROMPT)
    prompt_of(page).press("Control+Enter")
    cards = page.get_by_label("Now", exact=True).get_by_role("listitem")
    expect(cards.get_by_role("alert")).not_to_be_empty(timeout=60 * SECONDS)
    file.write_bytes(content)
    cards.get_by_role("button", name="Again").click()
    expect(made(page)).to_be_visible(timeout=60 * SECONDS)


def test_a_refused_prompt_is_kept_and_the_reason_said(page: Page, problems: Problems) -> None:
    problems.allow("400")
    prompt_of(page).fill("fox " * 1001)
    prompt_of(page).press("Control+Enter")
    expect(page.get_by_role("alert").filter(has_text="at most 4000")).to_be_visible()
    expect(page.get_by_label("Now", exact=True)).to_be_hidden()
    expect(prompt_of(page)).to_have_value("fox " * 1001)


def test_settings_of_another_program_s_picture_are_recalled(
    page: Page,
) -> None:
    unfold(page)
    page.locator("input[type=file]").set_input_files(png(A1111))
    page.get_by_role("button", name="Recall them").click()
    settings(page)
    expect(prompt_of(page)).to_have_value("castle on a hill, <lora:none:0.5>")
    shown = {
        "Seed": "1234",
        "Steps": "12",
        "Guidance": "6.5",
        "Width": "64",
        "Height": "96",
        "Not in the picture": "people, text",
    }
    for label, value in shown.items():
        expect(page.get_by_label(label, exact=True).first).to_have_value(value)
    expect(page.get_by_role("switch", name="Enhance")).not_to_be_checked()


def test_settings_of_banatie_s_own_picture_are_recalled(page: Page, service: Service) -> None:
    record = service.paint("a cottage, by a lake", seed=77, autoEnhance=True, steps=3)
    file = {"name": "own.png", "mimeType": "image/png", "buffer": service.picture(record)}
    unfold(page)
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_role("button", name="Recall them").click()
    settings(page)
    expect(prompt_of(page)).to_have_value("a cottage, by a lake")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("77")
    expect(page.get_by_role("switch", name="Enhance")).to_be_checked()


def test_a_dropped_picture_is_a_reference_and_a_mask_is_painted_over_it(
    page: Page, service: Service
) -> None:
    page.evaluate(
        """bytes => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "hill.png", { type: "image/png" }));
          dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
        }""",
        list(png()["buffer"]),
    )
    page.get_by_role("slider", name="Strength").fill("0.8")
    expect(page.get_by_label("3:2")).to_be_checked()
    page.get_by_role("button", name="Paint a mask").click()
    box = page.get_by_label("Mask", exact=True).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    page.mouse.up()
    page.get_by_role("button", name="Use this mask").click()
    expect(page.get_by_text("masked")).to_be_visible()
    prompt_of(page).fill(PROMPT)
    prompt_of(page).press("Control+Enter")
    expect(made(page)).to_be_visible(timeout=60 * SECONDS)
    record = newest(service)
    assert record["referenceMode"] == "inpaint"
    shown = service.request("GET", f"/api/v1/images/{record['mask']}").json()["data"]
    mask = Image.open(io.BytesIO(service.picture({"outputImage": shown}))).convert("L")
    assert mask.size == (96, 64)
    assert [mask.getpixel(at) for at in ((36, 32), (80, 32))] == [255, 0]


def test_jobs_of_another_tab_are_seen(page: Page, context: BrowserContext) -> None:
    other = context.new_page()
    other.goto("/")
    expect(prompt_of(other)).to_be_visible()
    slow_job(page)
    cards = other.get_by_label("Now", exact=True).get_by_role("listitem")
    expect(cards).to_have_count(1)
    cards.get_by_role("button", name="Cancel").click()
    expect(cards).to_have_count(0)
    expect(page.get_by_label("Now", exact=True)).to_be_hidden()


def test_the_page_is_accessible_with_everything_unfolded(page: Page) -> None:
    settings(page)
    page.locator("input[type=file]").set_input_files(png())
    expect(page.get_by_role("slider", name="Strength")).to_be_visible()
    assert accessibility_violations(page) == []
    page.get_by_role("button", name="Paint a mask").click()
    assert accessibility_violations(page) == []
