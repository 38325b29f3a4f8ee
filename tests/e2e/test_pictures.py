"""From a prompt to the bytes under the storage URL, through a running server and worker."""

from __future__ import annotations

import io
import re
import uuid

import pytest
from PIL import Image

from banatie.records import ASPECT_RATIOS, TEMPLATE_NAMES
from tests.support.service import Service

PROMPT = "a red cat on the road"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ODD_PROMPTS = [
    "  two  spaces\tand a tab, then a line\r\nand another \n",
    "кот на дороге 🐈‍⬛ e\u0301 «ёлка» 猫",
    '"quoted", {"json": true}, Steps: 3, <script>\\n</script>',
    "%s %(name)s {0} $HOME `id`; DROP TABLE generations; --",
    "word " * 700,
]


def test_the_answer_carries_the_enhanced_prompt_and_the_picture_follows(service: Service) -> None:
    created = service.post(PROMPT, meta={"shelf": [1, None, "ü"]})
    assert created["status"] == "pending"
    assert created["originalPrompt"] == PROMPT
    assert PROMPT in created["prompt"]
    assert created["prompt"] != PROMPT
    assert created["warnings"] == []
    assert created["outputImageId"] is created["outputImage"] is created["processingTimeMs"] is None
    assert created["errorMessage"] is None
    assert str(uuid.UUID(created["id"])) == created["id"]

    ended = service.wait_until_ended(created["id"])
    assert ended["status"] == "success"
    assert ended["prompt"] == created["prompt"]
    assert ended["meta"] == {"shelf": [1, None, "ü"]}
    assert (ended["autoEnhance"], ended["aspectRatio"]) == (True, "1:1")
    assert (ended["retryCount"], ended["errorMessage"]) == (0, None)
    assert ended["processingTimeMs"] > 0
    assert ended["outputImage"]["id"] == ended["outputImageId"]
    assert TIME.fullmatch(ended["createdAt"])
    assert ended["createdAt"] == created["createdAt"] < ended["updatedAt"]
    check_picture(service, ended)


@pytest.mark.parametrize("ratio", ASPECT_RATIOS)
def test_a_picture_has_the_ratio_and_the_numbers_of_its_record(
    service: Service, ratio: str
) -> None:
    record = service.paint(PROMPT, aspectRatio=ratio)
    width, height = map(int, ratio.split(":"))
    image = record["outputImage"]
    assert image["width"] / image["height"] == pytest.approx(width / height, rel=0.05)
    check_picture(service, record)


def test_the_same_seed_and_parameters_give_the_same_bytes(service: Service) -> None:
    wish = {"autoEnhance": True, "seed": 2**53 - 1, "steps": 3, "aspectRatio": "3:2"}
    first, again, other = (
        service.paint(PROMPT, **wish | changes) for changes in ({}, {}, {"seed": 7})
    )
    assert first["prompt"] == again["prompt"]
    assert service.picture(first) == service.picture(again)
    assert pixels(service, first) != pixels(service, other)


def test_a_seed_that_was_not_given_is_recorded_and_makes_the_picture_again(
    service: Service,
) -> None:
    first = service.paint(PROMPT)
    second = service.paint(PROMPT, seed=first["seed"])
    third = service.paint(PROMPT)
    assert service.picture(first) == service.picture(second)
    assert third["seed"] != first["seed"]


@pytest.mark.parametrize("prompt", ODD_PROMPTS, ids=range(len(ODD_PROMPTS)))
def test_without_enhancement_the_prompt_stays_byte_for_byte(service: Service, prompt: str) -> None:
    record = service.paint(prompt)
    assert record["prompt"] == record["originalPrompt"] == prompt
    assert record["autoEnhance"] is False
    assert record["enhancement"] is None
    assert parameters(service, record).startswith(prompt + "\n")


def test_an_odd_prompt_can_be_enhanced(service: Service) -> None:
    record = service.paint(ODD_PROMPTS[1], autoEnhance=True)
    assert record["originalPrompt"] == ODD_PROMPTS[1]


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_each_template_enhances(service: Service, template: str) -> None:
    record = service.post(PROMPT, steps=1, enhancementOptions={"template": template})
    assert record["prompt"] != PROMPT
    assert record["enhancement"]["template"] == template
    assert service.wait_until_ended(record["id"])["status"] == "success"


def test_parameters_change_the_picture_and_are_recorded(service: Service) -> None:
    wish = {"seed": 11, "negativePrompt": "a dog", "steps": 4, "guidanceScale": 7.5}
    record = service.paint(PROMPT, **wish)
    assert {name: record[name] for name in wish} == wish
    plain = pixels(service, record)
    for change in ({"negativePrompt": "the road"}, {"steps": 5}, {"guidanceScale": 2.0}):
        assert pixels(service, service.paint(PROMPT, **wish | change)) != plain
    unguided = service.paint(PROMPT, seed=11, guidanceScale=0)
    assert unguided["guidanceScale"] == 0


def test_the_file_tells_how_it_was_made(service: Service) -> None:
    record = service.paint(
        PROMPT, seed=3, steps=2, negativePrompt="a dog", guidanceScale=4.5, autoEnhance=True
    )
    prompt, negative, settings = parameters(service, record).split("\n")
    assert prompt == record["prompt"]
    assert negative == "Negative prompt: a dog"
    for setting in (
        "Steps: 2",
        "Sampler: Euler",
        "CFG scale: 4.5",
        "Seed: 3",
        "Size: 128x128",
        "Model: tiny-sdxl",
        f"Original prompt: {PROMPT}",
    ):
        assert f", {setting}," in f", {settings},"
    assert re.search(r"UNet hash: [0-9a-f]{10}\b", settings)


def test_a_deleted_generation_takes_its_file_along(service: Service) -> None:
    record = service.paint(PROMPT)
    assert f"{record['outputImageId']}.png" in service.files()
    path = f"/api/v1/generations/{record['id']}"
    answer = service.request("DELETE", path)
    assert answer.json() == {"success": True, "message": "Generation deleted"}
    assert f"{record['outputImageId']}.png" not in service.files()
    assert service.request("GET", record["outputImage"]["storageUrl"]).status_code == 404
    assert service.request("DELETE", path).status_code == 404


def check_picture(service: Service, record: dict) -> None:
    """The file is what the record says, to the byte and the pixel."""
    image, data = record["outputImage"], service.picture(record)
    assert image["storageUrl"].startswith(service.url + "/")
    assert len(data) == image["fileSize"]
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        assert Image.MIME[opened.format] == image["mimeType"]
        assert opened.size == (image["width"], image["height"])
        assert len(opened.getcolors(opened.width * opened.height)) > 16


def parameters(service: Service, record: dict) -> str:
    with Image.open(io.BytesIO(service.picture(record))) as opened:
        opened.load()
        return opened.text["parameters"]


def pixels(service: Service, record: dict) -> bytes:
    with Image.open(io.BytesIO(service.picture(record))) as opened:
        return opened.tobytes()
