from __future__ import annotations

import re
import uuid

import pytest

from tests.support.api_server import (
    ADDRESS,
    CREATED_KEYS,
    DETAIL_KEYS,
    GENERATIONS,
    LISTED_KEYS,
    following,
)

pytestmark = pytest.mark.anyio

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def is_lower_uuid(text: str) -> bool:
    return str(uuid.UUID(text)) == text and uuid.UUID(text).version in (4, 7)


async def test_the_published_request_is_answered_with_the_published_fields(client):
    body = {
        "prompt": "a red sports car on a mountain road",
        "aspectRatio": "16:9",
        "autoEnhance": True,
        "enhancementOptions": {"template": "photorealistic"},
    }
    response = await client.post(GENERATIONS, json=body)
    assert response.status_code == 201
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert set(answer) == {"success", "data"}
    assert answer["success"] is True
    data = answer["data"]
    assert set(data) >= CREATED_KEYS
    assert is_lower_uuid(data["id"])
    assert data["projectId"] == client.project_id
    assert is_lower_uuid(data["projectId"])
    assert data["prompt"] == data["originalPrompt"] == body["prompt"]
    assert data["autoEnhance"] is True
    assert data["aspectRatio"] == "16:9"
    assert data["status"] == "pending"
    assert data["outputImageId"] is None
    assert data["processingTimeMs"] is None


async def test_what_is_left_out_has_the_published_defaults(client):
    data = await client.create(prompt="a cat")
    assert data["aspectRatio"] == "1:1"
    assert data["autoEnhance"] is True
    assert data["template"] == "general"
    assert data["meta"] == {}


async def test_times_are_iso_8601_in_utc_with_milliseconds(server, client):
    data = await client.create()
    assert TIME.fullmatch(data["createdAt"])
    assert data["createdAt"] == data["updatedAt"]
    server.clock.now = (server.clock.now // 1000 + 1) * 1000 + 7
    server.worker.enhance(data["id"], "an enhanced red fox")
    record = await client.record(data["id"])
    assert TIME.fullmatch(record["updatedAt"])
    assert record["updatedAt"].endswith(".007Z")
    assert record["createdAt"] == data["createdAt"] < record["updatedAt"]


async def test_get_has_every_field_while_the_generation_waits(client):
    created = await client.create(meta={"order": 7})
    response = await client.get(f"{GENERATIONS}/{created['id']}")
    assert set(response.json()) == {"success", "data"}
    record = response.json()["data"]
    assert set(record) >= DETAIL_KEYS
    assert record["outputImage"] is None
    assert record["retryCount"] == 0
    assert record["errorMessage"] is None
    assert record["meta"] == {"order": 7}
    assert record == created


async def test_get_says_processing_once_the_painting_has_begun(client, worker):
    created = await client.create(autoEnhance=False)
    worker.begin(created["id"])
    record = await client.record(created["id"])
    assert record["status"] == "processing"
    assert record["outputImage"] is record["outputImageId"] is record["processingTimeMs"] is None


async def test_get_shows_the_picture_of_a_success(client, worker):
    created = await client.create(autoEnhance=False, aspectRatio="3:2")
    content = worker.paint(created["id"])
    record = await client.record(created["id"])
    assert set(record) >= DETAIL_KEYS
    assert record["status"] == "success"
    assert record["processingTimeMs"] == 8500
    assert record["errorMessage"] is None
    image = record["outputImage"]
    assert set(image) == {"id", "storageUrl", "mimeType", "width", "height", "fileSize"}
    assert image["id"] == record["outputImageId"]
    assert is_lower_uuid(image["id"])
    assert image["storageUrl"].startswith(f"{ADDRESS}/")
    assert image["mimeType"] == "image/png"
    assert (image["width"], image["height"]) == (48, 32)
    assert image["fileSize"] == len(content)


async def test_get_tells_why_a_generation_failed(client, worker):
    created = await client.create(autoEnhance=False)
    worker.fail(created["id"], "The device's memory did not suffice")
    record = await client.record(created["id"])
    assert record["status"] == "failed"
    assert record["errorMessage"] == "The device's memory did not suffice"
    assert record["outputImage"] is record["outputImageId"] is None


async def test_retry_count_tells_how_often_it_was_taken_up_again(client, worker):
    created = await client.create(autoEnhance=False)
    worker.begin(created["id"])
    worker.claims.release_claims(worker.clock())
    record = await client.record(created["id"])
    assert record["status"] == "pending"
    assert record["retryCount"] == 1


async def test_get_shows_the_enhanced_prompt_beside_the_original(client, worker):
    created = await client.create(prompt="a cat")
    worker.enhance(created["id"], "A photorealistic close-up of a cat")
    record = await client.record(created["id"])
    assert record["prompt"] == "A photorealistic close-up of a cat"
    assert record["originalPrompt"] == "a cat"
    assert record["autoEnhance"] is True
    assert record["status"] == "pending"


async def test_listed_items_have_the_published_fields(client, worker):
    created = await client.create(autoEnhance=False)
    worker.paint(created["id"])
    page = await client.listed()
    assert set(page) == {"success", "data", "pagination"}
    assert page["success"] is True
    assert set(page["pagination"]) == {"limit", "offset", "total", "hasMore"}
    (item,) = page["data"]
    assert set(item) >= LISTED_KEYS
    assert item == await client.record(created["id"])


async def test_everything_that_was_asked_for_is_in_the_record(client):
    wish = {
        "prompt": "ein Fuchs 🦊",
        "aspectRatio": "21:9",
        "autoEnhance": False,
        "meta": {"nested": {"list": [1, 2.5, None, True, "ü"]}, "": "empty key"},
        "seed": 2**53 - 1,
        "negativePrompt": "blurry",
        "steps": 100,
        "guidanceScale": 20,
    }
    record = await client.record((await client.create(**wish))["id"])
    assert {name: record[name] for name in wish} == wish


@pytest.mark.parametrize("ratio", ["1:1", "16:9", "9:16", "3:2", "21:9"])
async def test_every_published_ratio_is_taken(client, ratio):
    assert (await client.create(aspectRatio=ratio))["aspectRatio"] == ratio


@pytest.mark.parametrize(
    "template",
    ["general", "photorealistic", "illustration", "minimalist", "sticker", "product", "comic"],
)
async def test_every_published_template_is_taken(client, template):
    data = await client.create(enhancementOptions={"template": template})
    assert data["template"] == template


async def test_a_seed_is_in_the_record_also_when_none_was_sent(client):
    seeds = [(await client.create())["seed"] for _ in range(3)]
    assert len(set(seeds)) == 3
    assert all(isinstance(seed, int) and 0 <= seed < 2**53 for seed in seeds)


async def test_optional_numbers_may_be_null(client):
    data = await client.create(seed=None, steps=None, guidanceScale=None)
    assert data["seed"] is not None
    assert data["steps"] is data["guidanceScale"] is None


@pytest.mark.parametrize("spelling", ["/", "/events", "/cancel"])
async def test_an_upper_case_id_is_the_same_id(server, client, worker, spelling):
    created = await client.create(autoEnhance=False)
    worker.paint(created["id"])
    upper = created["id"].upper()
    if spelling == "/events":
        async with following(server, client, upper) as stream:
            events = await stream.rest()
        assert events[-1].data["id"] == created["id"]
    else:
        method = "POST" if spelling == "/cancel" else "GET"
        response = await client.request(method, f"{GENERATIONS}/{upper}{spelling.rstrip('/')}")
        assert response.status_code == 200
        assert response.json()["data"]["id"] == created["id"]


async def test_the_storage_url_follows_the_host_that_was_asked(client, worker):
    created = await client.create(autoEnhance=False)
    worker.paint(created["id"])
    response = await client.get(
        f"{GENERATIONS}/{created['id']}", headers={"Host": "pictures.lan:8080"}
    )
    url = response.json()["data"]["outputImage"]["storageUrl"]
    assert url.startswith("http://pictures.lan:8080/storage/")


async def test_every_answer_has_an_id_of_its_own(client):
    first, second = await client.get(GENERATIONS), await client.get("/health")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
