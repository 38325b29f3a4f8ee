from __future__ import annotations

import uuid

import pytest

from banatie.records import Image
from tests.support.api_server import FLOWS, GENERATIONS, IMAGES, assert_failure, serving

pytestmark = pytest.mark.anyio


async def change(client, generation_id, **body):
    response = await client.put(f"{GENERATIONS}/{generation_id}", json=body)
    assert response.status_code == 200, response.text
    return response.json()["data"]


@pytest.mark.parametrize(
    "body", [{"prompt": "a blue fox"}, {"aspectRatio": "16:9"}, {"prompt": "x", "meta": {"a": 1}}]
)
async def test_a_new_prompt_or_ratio_makes_the_picture_again_under_its_url(
    server, client, worker, body
):
    before = await client.painted(worker, seed=5, alias="@fox")
    url = before["outputImage"]["storageUrl"]
    old = (await server.visitor().get(url)).content
    data = await change(client, before["id"], **body)
    assert (data["status"], data["seed"], data["processingTimeMs"]) == ("pending", 5, None)
    assert data["prompt"] == data["originalPrompt"] == body.get("prompt", "a red fox")
    assert data["aspectRatio"] == body.get("aspectRatio", "1:1")
    assert data["outputImageId"] == before["outputImageId"]
    # The old file stays until the new one replaces it.
    assert (await server.visitor().get(url)).content == old
    worker.begin(before["id"])
    assert (await server.visitor().get(url)).content == old
    new = worker.succeed(before["id"])
    after = await client.record(before["id"])
    assert after["status"] == "success"
    assert after["outputImage"]["storageUrl"] == url
    assert after["outputImageId"] == before["outputImageId"]
    assert (await server.visitor().get(url)).content == new != old
    assert after["outputImage"]["fileSize"] == len(new)
    image = (await client.get(f"{IMAGES}/@fox")).json()["data"]
    assert (image["id"], image["generationId"]) == (before["outputImageId"], before["id"])


async def test_a_file_that_is_replaced_while_it_is_read_is_read_whole(server, client, worker):
    before = await client.painted(worker)
    url = before["outputImage"]["storageUrl"]
    old = (await server.visitor().get(url)).content
    await client.post(f"{GENERATIONS}/{before['id']}/regenerate")
    worker.begin(before["id"])
    async with server.visitor().stream("GET", url) as response:
        new = worker.succeed(before["id"])
        content = await response.aread()
        assert len(content) == int(response.headers["content-length"])
    assert content in (old, new)


async def test_the_same_prompt_and_ratio_change_nothing(client, worker):
    before = await client.painted(worker)
    after = await change(client, before["id"], prompt="a red fox", aspectRatio="1:1")
    assert after == before


async def test_metadata_and_flow_only_change_the_record(client, worker):
    before = await client.painted(worker)
    noted = await change(client, before["id"], meta={"a": 1})
    assert noted == before | {"meta": {"a": 1}, "updatedAt": noted["updatedAt"]}
    flow_id = str(uuid.uuid4())
    moved = await change(client, before["id"], flowId=flow_id)
    assert (moved["flowId"], moved["status"]) == (flow_id, "success")
    flow = (await client.get(f"{FLOWS}/{flow_id}")).json()["data"]
    assert (flow["generationCount"], flow["imageCount"]) == (1, 1)
    out = await change(client, before["id"], flowId=None)
    assert (out["flowId"], out["meta"]) == (None, {"a": 1})
    flow = (await client.get(f"{FLOWS}/{flow_id}")).json()["data"]
    assert (flow["generationCount"], flow["imageCount"]) == (0, 0)
    assert await change(client, before["id"]) == await client.record(before["id"])


@pytest.mark.parametrize("name", ["regenerate", "retry"])
async def test_it_is_made_again_with_the_same_parameters(client, worker, name):
    reference = await client.upload()
    body = {"seed": 7, "steps": 3, "referenceImages": [reference["id"]], "size": "64x128"}
    before = await client.painted(worker, **body)
    response = await client.post(f"{GENERATIONS}/{before['id']}/{name}")
    assert response.status_code == 200
    data = response.json()["data"]
    assert (data["status"], data["retryCount"]) == ("pending", 1)
    same = ("prompt", "seed", "referencedImages", "size", "aspectRatio", "outputImage", "createdAt")
    assert {each: data[each] for each in same} == {each: before[each] for each in same}
    assert data["model"] is None


async def test_an_enhanced_prompt_is_enhanced_again(client, worker):
    created = await client.create()
    worker.enhance(created["id"], "a red fox, sunlit")
    worker.paint(created["id"])
    await client.post(f"{GENERATIONS}/{created['id']}/regenerate")
    record = await client.record(created["id"])
    assert (record["prompt"], record["enhancement"]) == ("a red fox", None)
    worker.enhance(created["id"], "a red fox at night")
    worker.paint(created["id"])
    assert (await client.record(created["id"]))["prompt"] == "a red fox at night"


async def test_one_that_fails_again_keeps_its_picture(server, client, worker):
    before = await client.painted(worker)
    await client.post(f"{GENERATIONS}/{before['id']}/regenerate")
    worker.fail(before["id"], "no paint left")
    after = await client.record(before["id"])
    assert (after["status"], after["errorMessage"]) == ("failed", "no paint left")
    assert after["outputImage"] == before["outputImage"]
    url = after["outputImage"]["storageUrl"]
    assert (await server.visitor().get(url)).status_code == 200
    # And one that failed the first time is made again like any other.
    await client.post(f"{GENERATIONS}/{before['id']}/retry")
    worker.paint(before["id"])
    after = await client.record(before["id"])
    assert (after["status"], after["errorMessage"]) == ("success", None)


async def test_a_new_prompt_names_its_references_anew(client, worker):
    images = [await client.upload(alias=f"@a{number}") for number in range(3)]
    before = await client.painted(worker, prompt="@a0 and so on", referenceImages=["@a2"])
    after = await change(client, before["id"], prompt="@a1 and so on")
    assert after["referencedImages"] == [
        {"imageId": images[2]["id"], "alias": "@a2"},
        {"imageId": images[1]["id"], "alias": "@a1"},
    ]


async def test_a_picture_of_the_prompt_before_is_not_taken_for_one_of_the_new_prompt(
    client, worker
):
    created = await client.create(autoEnhance=False)
    begun = worker.take("paint", created["id"])
    await change(client, created["id"], prompt="a blue fox")
    # The worker that still saves the old picture has claimed the row again for the new one.
    assert worker.take("paint", created["id"]).prompt == "a blue fox"
    image = Image("i", client.project_id, "k", "image/png", 1, 1, 1, 1)
    assert not worker.claims.succeed(begun.id, image, 1, 2, attempt=begun.retry_count)
    worker.claims.start_painting(begun.id, model="m", steps=1, guidance_scale=1.0, now=2)
    worker.succeed(created["id"])
    assert (await client.record(created["id"]))["prompt"] == "a blue fox"


async def test_an_alias_that_was_moved_meanwhile_is_not_taken_back(client, worker):
    before = await client.painted(worker, alias="@fox")
    await client.put(f"{IMAGES}/@fox/alias", json={"alias": None})
    other = await client.upload(alias="@fox")
    await client.post(f"{GENERATIONS}/{before['id']}/regenerate")
    worker.paint(before["id"])
    assert (await client.get(f"{IMAGES}/@fox")).json()["data"]["id"] == other["id"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": "  "}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "x" * 4001}, "prompt"),
        ({"aspectRatio": "2:1"}, "aspectRatio"),
        ({"flowId": "x"}, "flowId"),
        ({"meta": {"a": "x" * 20_000}}, "meta"),
        ({"seed": 3}, "seed"),
    ],
)
async def test_a_wrong_change_is_refused_by_its_name(client, worker, body, field):
    before = await client.painted(worker)
    response = await client.put(f"{GENERATIONS}/{before['id']}", json=body)
    assert_failure(response, 400, "VALIDATION_ERROR", field)
    assert await client.record(before["id"]) == before


async def test_what_is_not_there_is_404(server, client, worker):
    foreign = await server.client().create()
    binned = await client.painted(worker)
    await client.delete(f"{GENERATIONS}/{binned['id']}", params={"soft": "true"})
    for generation_id in (foreign["id"], str(uuid.uuid4()), "x", binned["id"]):
        url = f"{GENERATIONS}/{generation_id}"
        for response in (
            await client.put(url, json={"prompt": "a cat"}),
            await client.post(f"{url}/regenerate"),
            await client.post(f"{url}/retry"),
        ):
            assert_failure(response, 404, "GENERATION_NOT_FOUND")


async def test_a_full_queue_takes_none_again(tmp_path):
    async with serving(tmp_path, limits__queue_size=1) as server:
        client = server.client()
        before = await client.painted(server.worker)
        await client.create(autoEnhance=False)
        response = await client.post(f"{GENERATIONS}/{before['id']}/regenerate")
        assert_failure(response, 503, "QUEUE_FULL")
        assert int(response.headers["retry-after"]) > 0
        response = await client.put(f"{GENERATIONS}/{before['id']}", json={"prompt": "a cat"})
        assert_failure(response, 503, "QUEUE_FULL")
        assert await client.record(before["id"]) == before
