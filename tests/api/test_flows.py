from __future__ import annotations

import uuid

import pytest

from tests.support.api_server import FLOWS, GENERATIONS, IMAGES, assert_failure

pytestmark = pytest.mark.anyio


async def flow_of(client, flow_id):
    response = await client.get(f"{FLOWS}/{flow_id}")
    assert response.status_code == 200, response.text
    return response.json()["data"]


async def put_aliases(client, flow_id, aliases):
    return await client.put(f"{FLOWS}/{flow_id}/aliases", json={"aliases": aliases})


async def test_a_flow_is_offered_and_made_on_its_second_use(server, client):
    first = await client.create()
    flow_id = first["flowId"]
    assert uuid.UUID(flow_id)
    assert_failure(await client.get(f"{FLOWS}/{flow_id}"), 404, "FLOW_NOT_FOUND")
    assert (await client.listed(flowId=flow_id))["data"] == [first]
    server.clock.advance(seconds=1)
    second = await client.create(flowId=flow_id.upper())
    assert second["flowId"] == flow_id
    flow = await flow_of(client, flow_id)
    assert flow == {
        "id": flow_id,
        "projectId": client.project_id,
        "aliases": {},
        "generationCount": 2,
        "imageCount": 0,
        "createdAt": second["createdAt"],
        "updatedAt": second["createdAt"],
    }
    inside = (await client.get(f"{FLOWS}/{flow_id}/generations")).json()
    assert [each["id"] for each in inside["data"]] == [second["id"], first["id"]]
    assert inside["pagination"] == {"limit": 20, "offset": 0, "total": 2, "hasMore": False}


async def test_null_is_no_flow_and_a_new_id_is_a_new_flow(client):
    assert (await client.create(flowId=None))["flowId"] is None
    wished = str(uuid.uuid4())
    assert (await client.create(flowId=wished))["flowId"] == wished
    assert (await flow_of(client, wished))["generationCount"] == 1


async def test_a_name_in_the_flow_makes_it_at_once(client, worker):
    record = await client.painted(worker, flowAlias="@hero")
    flow = await flow_of(client, record["flowId"])
    assert flow["aliases"] == {"@hero": record["outputImageId"]}


async def test_a_repeated_request_offers_the_same_flow(client):
    send = {"json": {"prompt": "a cat"}, "headers": {"Idempotency-Key": "once"}}
    answers = [await client.post(GENERATIONS, **send) for _ in range(2)]
    assert answers[0].json() == answers[1].json()


async def test_flows_are_listed_newest_first(server, client):
    ids = [str(uuid.uuid4()) for _ in range(3)]
    for flow_id in ids:
        server.clock.advance(milliseconds=1)
        await client.create(flowId=flow_id)
    page = (await client.get(FLOWS, params={"limit": 2})).json()
    assert [each["id"] for each in page["data"]] == ids[:0:-1]
    assert page["pagination"] == {"limit": 2, "offset": 0, "total": 3, "hasMore": True}
    for query, field in (({"limit": 0}, "limit"), ({"flowId": ids[0]}, "flowId")):
        response = await client.get(FLOWS, params=query)
        assert_failure(response, 400, "VALIDATION_ERROR", field)


async def test_the_images_of_a_flow_are_listed(server, client, worker):
    flow_id = str(uuid.uuid4())
    upload = await client.upload(flowId=flow_id)
    server.clock.advance(milliseconds=1)
    painted = await client.painted(worker, flowId=flow_id)
    page = (await client.get(f"{FLOWS}/{flow_id}/images")).json()
    assert [each["id"] for each in page["data"]] == [painted["outputImageId"], upload["id"]]
    assert (await flow_of(client, flow_id))["imageCount"] == 2


async def test_names_are_merged_moved_and_taken_away(client):
    images = [await client.upload(flowAlias="@a"), await client.upload(alias="@logo")]
    flow_id = images[0]["flowId"]
    merged = await put_aliases(client, flow_id, {"@b": images[1]["id"], "@c": "@logo"})
    ids = {"@a": images[0]["id"], "@b": images[1]["id"], "@c": images[1]["id"]}
    assert merged.json()["data"]["aliases"] == ids
    moved = await put_aliases(client, flow_id, {"@a": "@b"})
    assert moved.json()["data"]["aliases"] == ids | {"@a": images[1]["id"]}
    removed = await client.delete(f"{FLOWS}/{flow_id}/aliases/@b")
    assert "@b" not in removed.json()["data"]["aliases"]
    again = await client.delete(f"{FLOWS}/{flow_id}/aliases/@b")
    assert_failure(again, 404, "ALIAS_NOT_FOUND")
    for aliases in ({"b": images[1]["id"]}, {"@last": images[1]["id"]}, {}, {"@x": 7}):
        response = await put_aliases(client, flow_id, aliases)
        assert_failure(response, 400, "VALIDATION_ERROR")
    unknown = await put_aliases(client, flow_id, {"@d": images[0]["id"], "@e": str(uuid.uuid4())})
    assert_failure(unknown, 404, "IMAGE_NOT_FOUND")
    assert_failure(await put_aliases(client, flow_id, {"@e": "@no"}), 404, "ALIAS_NOT_FOUND")
    assert "@d" not in (await flow_of(client, flow_id))["aliases"]


async def test_what_is_not_there_is_404(server, client):
    foreign = (await server.client().upload(flowAlias="@a"))["flowId"]
    for flow_id in (str(uuid.uuid4()), "no-uuid", foreign):
        for method, path in [
            ("GET", ""),
            ("GET", "/generations"),
            ("GET", "/images"),
            ("POST", "/regenerate"),
            ("DELETE", "/aliases/@a"),
            ("DELETE", ""),
        ]:
            response = await client.request(method, f"{FLOWS}/{flow_id}{path}")
            assert_failure(response, 404, "FLOW_NOT_FOUND")
        response = await put_aliases(client, flow_id, {"@a": str(uuid.uuid4())})
        assert_failure(response, 404, "FLOW_NOT_FOUND")


async def test_the_latest_generation_is_made_again(server, client, worker):
    flow_id = str(uuid.uuid4())
    await client.painted(worker, flowId=flow_id)
    server.clock.advance(milliseconds=1)
    latest = await client.painted(worker, flowId=flow_id)
    response = await client.post(f"{FLOWS}/{flow_id}/regenerate")
    assert response.status_code == 200
    data = response.json()["data"]
    assert (data["id"], data["status"]) == (latest["id"], "pending")
    uploads_only = (await client.upload(flowAlias="@a"))["flowId"]
    nothing = await client.post(f"{FLOWS}/{uploads_only}/regenerate")
    assert_failure(nothing, 404, "FLOW_NOT_FOUND")


async def test_a_flow_is_deleted_with_what_is_in_it(server, client, worker):
    flow_id = str(uuid.uuid4())
    kept = await client.painted(worker, flowId=flow_id, alias="@kept")
    gone = await client.painted(worker, flowId=flow_id)
    upload = await client.upload(flowId=flow_id, flowAlias="@up")
    outside = await client.painted(worker, referenceImages=["@kept", upload["id"]])
    response = await client.delete(f"{FLOWS}/{flow_id}")
    assert response.json() == {"success": True, "message": "Flow deleted"}
    assert_failure(await client.get(f"{FLOWS}/{flow_id}"), 404, "FLOW_NOT_FOUND")
    for record in (kept, gone):
        missing = await client.get(f"{GENERATIONS}/{record['id']}")
        assert_failure(missing, 404, "GENERATION_NOT_FOUND")
    for url in (gone["outputImage"]["storageUrl"], upload["storageUrl"]):
        assert (await server.visitor().get(url)).status_code == 404
    image = (await client.get(f"{IMAGES}/@kept")).json()["data"]
    assert (image["id"], image["flowId"]) == (kept["outputImageId"], None)
    assert (await server.visitor().get(image["storageUrl"])).status_code == 200
    references = (await client.record(outside["id"]))["referencedImages"]
    assert [each["imageId"] for each in references] == [image["id"]]


async def test_a_flow_deleted_while_its_generation_is_painted_leaves_no_picture(
    server, client, worker
):
    flow_id = str(uuid.uuid4())
    created = await client.create(autoEnhance=False, flowId=flow_id, flowAlias="@hero")
    worker.begin(created["id"])
    await client.delete(f"{FLOWS}/{flow_id}")
    assert not worker.step(created["id"], 2)
    assert not worker.claims.holds(created["id"])
    assert (await client.get(IMAGES)).json()["data"] == []
    assert not list((server.data / "storage").glob(f"*/{client.project_id}/*/*"))
