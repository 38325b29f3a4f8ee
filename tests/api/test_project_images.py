from __future__ import annotations

import asyncio
import uuid

import pytest

from tests.support.api_server import FLOWS, GENERATIONS, IMAGES, assert_failure

pytestmark = pytest.mark.anyio


async def listed(client, **query):
    response = await client.get(IMAGES, params=query)
    assert response.status_code == 200, response.text
    return response.json()


async def get(client, reference):
    response = await client.get(f"{IMAGES}/{reference}")
    assert response.status_code == 200, response.text
    return response.json()["data"]


async def set_alias(client, reference, alias):
    return await client.put(f"{IMAGES}/{reference}/alias", json={"alias": alias})


# Reading


async def test_images_are_listed_newest_first_and_filtered(server, client, worker):
    uploads = []
    for number in range(3):
        server.clock.advance(milliseconds=1)
        uploads.append(await client.upload(alias=f"@a{number}"))
    server.clock.advance(milliseconds=1)
    generated = (await client.painted(worker))["outputImageId"]
    page = await listed(client)
    assert [each["id"] for each in page["data"]] == [generated, *[u["id"] for u in uploads[::-1]]]
    assert page["pagination"] == {"limit": 20, "offset": 0, "total": 4, "hasMore": False}
    second = await listed(client, limit=2, offset=1)
    assert [each["id"] for each in second["data"]] == [uploads[2]["id"], uploads[1]["id"]]
    assert second["pagination"]["hasMore"] is True
    by_source = await listed(client, source="generated")
    assert [each["id"] for each in by_source["data"]] == [generated]
    assert (await listed(client, source="uploaded"))["pagination"]["total"] == 3
    by_alias = await listed(client, alias="@a1")
    assert [each["id"] for each in by_alias["data"]] == [uploads[1]["id"]]
    by_flow = await listed(client, flowId=uploads[0]["flowId"])
    assert [each["id"] for each in by_flow["data"]] == [uploads[0]["id"]]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"source": "stolen"}, "source"),
        ({"source": "null"}, "source"),
        ({"limit": 101}, "limit"),
        ({"offset": -1}, "offset"),
        ({"flowId": "x"}, "flowId"),
        ({"status": "success"}, "status"),
    ],
)
async def test_a_wrong_query_is_refused(client, query, field):
    assert_failure(await client.get(IMAGES, params=query), 400, "VALIDATION_ERROR", field)


async def test_an_image_is_found_by_its_id_and_by_its_alias(client, worker):
    image = await client.upload(alias="@logo")
    assert await get(client, "@logo") == image == await get(client, image["id"].upper())
    painted = await client.painted(worker)
    generated = await get(client, painted["outputImageId"])
    assert (generated["source"], generated["generationId"]) == ("generated", painted["id"])
    assert await get(client, "@last") == generated == await get(client, "@first")
    assert await get(client, "@upload") == image


async def test_what_is_not_there_is_404(server, client):
    foreign = await server.client().upload(alias="@theirs")
    change = {"json": {"focalPoint": None}}
    for reference, code in [
        (str(uuid.uuid4()), "IMAGE_NOT_FOUND"),
        ("no-uuid", "IMAGE_NOT_FOUND"),
        (foreign["id"], "IMAGE_NOT_FOUND"),
        ("@theirs", "ALIAS_NOT_FOUND"),
        ("@last", "ALIAS_NOT_FOUND"),
        ("@", "ALIAS_NOT_FOUND"),
    ]:
        assert_failure(await client.get(f"{IMAGES}/{reference}"), 404, code)
        assert_failure(await client.put(f"{IMAGES}/{reference}", **change), 404, code)
        assert_failure(await set_alias(client, reference, "@a"), 404, code)
        assert_failure(await client.delete(f"{IMAGES}/{reference}"), 404, code)


# Changing


async def test_the_focal_point_and_the_metadata_are_changed_one_by_one(client):
    image = await client.upload(meta='{"a": 1}')
    url = f"{IMAGES}/{image['id']}"
    pointed = await client.put(url, json={"focalPoint": {"x": 0.25, "y": 1}})
    assert pointed.json()["data"] == image | {"focalPoint": {"x": 0.25, "y": 1.0}}
    noted = await client.put(url, json={"meta": {"b": "ü"}})
    assert noted.json()["data"]["focalPoint"] == {"x": 0.25, "y": 1.0}
    assert noted.json()["data"]["meta"] == {"b": "ü"}
    cleared = await client.put(url, json={"focalPoint": None})
    assert cleared.json()["data"] == image | {"meta": {"b": "ü"}}
    assert await get(client, image["id"]) == cleared.json()["data"]


@pytest.mark.parametrize(
    "body",
    [
        {"focalPoint": {"x": 1.01, "y": 0}},
        {"focalPoint": {"x": -0.01, "y": 0}},
        {"focalPoint": {"x": 0.5}},
        {"focalPoint": [0, 0]},
        {"meta": None},
        {"meta": "x"},
        {"meta": {"a": "x" * 20_000}},
        {"alias": "@a"},
    ],
)
async def test_a_wrong_change_is_refused(client, body):
    image = await client.upload()
    response = await client.put(f"{IMAGES}/{image['id']}", json=body)
    assert_failure(response, 400, "VALIDATION_ERROR")
    assert await get(client, image["id"]) == image


async def test_an_alias_is_given_moved_and_taken_away(client):
    first, second = await client.upload(), await client.upload()
    given = await set_alias(client, first["id"], "@logo")
    assert given.json()["data"]["alias"] == "@logo"
    assert (await set_alias(client, first["id"], "@logo")).status_code == 200
    assert_failure(await set_alias(client, second["id"], "@logo"), 409, "ALIAS_CONFLICT")
    renamed = await set_alias(client, "@logo", "@old")
    assert renamed.json()["data"]["id"] == first["id"]
    assert (await set_alias(client, second["id"], "@logo")).status_code == 200
    assert (await set_alias(client, "@logo", None)).json()["data"]["alias"] is None
    assert_failure(await client.get(f"{IMAGES}/@logo"), 404, "ALIAS_NOT_FOUND")
    for alias in ("logo", "@last", "@" + "a" * 100, "", 7):
        response = await set_alias(client, first["id"], alias)
        assert_failure(response, 400, "VALIDATION_ERROR", "alias")
    assert_failure(
        await client.put(f"{IMAGES}/{first['id']}/alias", json={}), 400, "VALIDATION_ERROR"
    )


async def test_an_alias_that_is_moved_while_it_is_read_is_one_image_or_the_other(server):
    client = server.client(requests_per_hour=0)
    images = [await client.upload(), await client.upload()]
    ids = {image["id"] for image in images}
    await set_alias(client, images[0]["id"], "@logo")

    async def move() -> None:
        for image in (images[1], images[0]) * 5:
            for other in images:
                await set_alias(client, other["id"], None)
            await set_alias(client, image["id"], "@logo")

    moving = asyncio.create_task(move())
    while not moving.done():
        response = await client.get(f"{IMAGES}/@logo")
        if response.status_code == 200:
            assert response.json()["data"]["id"] in ids
        else:
            assert_failure(response, 404, "ALIAS_NOT_FOUND")
    await moving


# Deleting


async def test_a_deleted_image_is_gone_with_its_file_and_its_names(server, client, worker):
    image = await client.upload(alias="@logo", flowAlias="@hero")
    user = await client.painted(worker, referenceImages=["@logo"])
    response = await client.delete(f"{IMAGES}/@logo")
    assert response.status_code == 200
    assert response.json() == {"success": True, "data": {"id": image["id"]}}
    assert (await server.visitor().get(image["storageUrl"])).status_code == 404
    assert not (server.data / "storage" / image["storageKey"]).exists()
    assert_failure(await client.delete(f"{IMAGES}/{image['id']}"), 404, "IMAGE_NOT_FOUND")
    flow = (await client.get(f"{FLOWS}/{image['flowId']}")).json()["data"]
    assert (flow["aliases"], flow["imageCount"]) == ({}, 0)
    record = await client.record(user["id"])
    assert (record["referencedImages"], record["referenceImages"]) == ([], [])
    assert record["status"] == "success"


async def test_a_generation_outlives_its_image(client, worker):
    record = await client.painted(worker)
    await client.delete(f"{IMAGES}/{record['outputImageId']}")
    after = await client.record(record["id"])
    assert (after["status"], after["outputImageId"], after["outputImage"]) == (
        "success",
        None,
        None,
    )
    # Making it again gives it a new image.
    await client.post(f"{GENERATIONS}/{record['id']}/regenerate")
    worker.paint(record["id"])
    again = await client.record(record["id"])
    assert again["outputImageId"] not in (None, record["outputImageId"])


@pytest.mark.parametrize("role", ["reference", "mask"])
@pytest.mark.parametrize("is_painting", [True, False])
async def test_a_generation_that_waits_for_an_image_fails_when_it_is_deleted(
    client, worker, role, is_painting
):
    reference, mask = await client.upload(), await client.upload()
    created = await client.create(
        autoEnhance=False, referenceImages=[reference["id"]], mask=mask["id"]
    )
    if is_painting:
        worker.begin(created["id"])
    await client.delete(f"{IMAGES}/{(reference if role == 'reference' else mask)['id']}")
    record = await client.record(created["id"])
    assert record["status"] == "failed"
    assert "deleted" in record["errorMessage"]
    assert not worker.claims.holds(created["id"])


async def test_deleting_the_image_of_one_that_is_made_again_cancels_it(server, client, worker):
    record = await client.painted(worker)
    await client.post(f"{GENERATIONS}/{record['id']}/regenerate")
    worker.begin(record["id"])
    await client.delete(f"{IMAGES}/{record['outputImageId']}")
    after = await client.record(record["id"])
    assert (after["status"], after["errorMessage"]) == ("failed", "Cancelled")
    assert after["outputImageId"] is None
    assert not worker.step(record["id"], 1)


async def test_deleting_a_generation_leaves_an_image_with_a_project_alias(server, client, worker):
    named = await client.painted(worker, alias="@kept")
    unnamed = await client.painted(worker, flowAlias="@hero")
    for record in (named, unnamed):
        assert (await client.delete(f"{GENERATIONS}/{record['id']}")).status_code == 200
    image = await get(client, "@kept")
    assert (image["id"], image["generationId"]) == (named["outputImageId"], None)
    assert (await server.visitor().get(image["storageUrl"])).status_code == 200
    gone = await client.get(f"{IMAGES}/{unnamed['outputImageId']}")
    assert_failure(gone, 404, "IMAGE_NOT_FOUND")
    assert (await client.delete(f"{IMAGES}/@kept")).status_code == 200
