from __future__ import annotations

import re

import pytest

from tests.support.api_server import GENERATIONS, assert_failure

pytestmark = pytest.mark.anyio


async def cancel(client, generation_id):
    response = await client.post(f"{GENERATIONS}/{generation_id}/cancel")
    assert response.status_code == 200, response.text
    assert set(response.json()) == {"success", "data"}
    return response.json()["data"]


async def delete(client, generation_id, **query):
    return await client.delete(f"{GENERATIONS}/{generation_id}", params=query)


async def painted(client, worker):
    created = await client.create(autoEnhance=False)
    worker.paint(created["id"])
    return await client.record(created["id"])


# Cancelling


@pytest.mark.parametrize("auto_enhance", [True, False])
async def test_a_waiting_generation_is_cancelled_and_never_taken(client, worker, auto_enhance):
    created = await client.create(autoEnhance=auto_enhance)
    data = await cancel(client, created["id"])
    assert data["status"] == "failed"
    assert data["errorMessage"] == "Cancelled"
    assert data == await client.record(created["id"])
    for stage in ("enhance", "paint"):
        while (taken := worker.claims.claim(stage, worker.clock())) is not None:
            assert taken.id != created["id"]


async def test_a_generation_that_is_enhanced_is_cancelled(client, worker):
    created = await client.create()
    worker.take("enhance", created["id"])
    await cancel(client, created["id"])
    assert not worker.claims.finish_enhancement(
        created["id"], prompt="too late", note=None, warning=None, now=worker.clock()
    )
    record = await client.record(created["id"])
    assert (record["status"], record["prompt"]) == ("failed", "a red fox")


async def test_the_worker_of_a_cancelled_painting_is_told_at_its_next_step(client, worker):
    created = await client.create(autoEnhance=False)
    worker.begin(created["id"])
    assert worker.step(created["id"], 1)
    await cancel(client, created["id"])
    assert not worker.step(created["id"], 2)
    assert not worker.claims.holds(created["id"])
    record = await client.record(created["id"])
    assert (record["status"], record["errorMessage"]) == ("failed", "Cancelled")
    assert record["outputImage"] is None


async def test_what_has_ended_stays_as_it_is(client, worker):
    success = await painted(client, worker)
    assert await cancel(client, success["id"]) == success
    failed = await client.create(autoEnhance=False)
    worker.fail(failed["id"], "no paint left")
    assert (await cancel(client, failed["id"]))["errorMessage"] == "no paint left"


async def test_cancelling_twice_is_as_good_as_once(client):
    created = await client.create()
    assert await cancel(client, created["id"]) == await cancel(client, created["id"])


# Deleting


async def test_delete_removes_record_and_picture_for_good(server, client, worker):
    record = await painted(client, worker)
    url = record["outputImage"]["storageUrl"]
    (file,) = (server.data / "storage").rglob(f"{record['outputImageId']}.png")
    assert (await client.get(url)).status_code == 200
    response = await delete(client, record["id"])
    assert response.status_code == 200
    assert response.json() == {"success": True, "message": "Generation deleted"}
    assert not file.exists()
    assert_failure(await client.get(url), 404, "NOT_FOUND")
    assert_failure(await client.get(f"{GENERATIONS}/{record['id']}"), 404, "GENERATION_NOT_FOUND")
    assert (await client.listed(includeDeleted="true"))["pagination"]["total"] == 0
    rows = server.services.database.query(
        "SELECT id FROM images WHERE id = ?", (record["outputImageId"],)
    )
    assert rows == []


async def test_a_second_delete_is_404(client, worker):
    record = await painted(client, worker)
    assert (await delete(client, record["id"])).status_code == 200
    assert_failure(await delete(client, record["id"]), 404, "GENERATION_NOT_FOUND")


async def test_deleting_what_waits_cancels_it(client, worker):
    created = await client.create()
    assert (await delete(client, created["id"])).status_code == 200
    while (taken := worker.claims.claim("enhance", worker.clock())) is not None:
        assert taken.id != created["id"]


async def test_deleting_what_is_painted_takes_it_from_the_worker(client, worker):
    created = await client.create(autoEnhance=False)
    worker.begin(created["id"])
    assert (await delete(client, created["id"])).status_code == 200
    assert not worker.step(created["id"], 2)
    assert not worker.claims.holds(created["id"])


async def test_delete_of_what_failed(client, worker):
    created = await client.create(autoEnhance=False)
    worker.fail(created["id"], "no")
    assert (await delete(client, created["id"])).json()["message"] == "Generation deleted"


# The bin


async def test_the_bin_keeps_record_and_file(client, worker):
    record = await painted(client, worker)
    response = await delete(client, record["id"], soft="true")
    assert response.status_code == 200
    assert response.json() == {"success": True, "message": "Generation deleted"}
    binned = await client.record(record["id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", binned["deletedAt"])
    assert binned["outputImage"] == record["outputImage"]
    assert (await client.get(record["outputImage"]["storageUrl"])).status_code == 200
    assert (await client.listed())["data"] == []


async def test_restoring_brings_it_back(client, worker):
    record = await painted(client, worker)
    await delete(client, record["id"], soft="true")
    response = await client.post(f"{GENERATIONS}/{record['id']}/restore")
    assert response.status_code == 200
    restored = response.json()["data"]
    assert restored["deletedAt"] is None
    assert restored["status"] == "success"
    assert restored["outputImage"] == record["outputImage"]
    assert [item["id"] for item in (await client.listed())["data"]] == [record["id"]]


async def test_restoring_what_is_not_in_the_bin_changes_nothing(client, worker):
    record = await painted(client, worker)
    response = await client.post(f"{GENERATIONS}/{record['id']}/restore")
    assert response.json()["data"] == record


async def test_putting_into_the_bin_twice_is_404(client):
    created = await client.create()
    await delete(client, created["id"], soft="true")
    assert_failure(await delete(client, created["id"], soft="true"), 404, "GENERATION_NOT_FOUND")


async def test_what_is_in_the_bin_can_be_deleted_for_good(client, worker):
    record = await painted(client, worker)
    await delete(client, record["id"], soft="true")
    assert (await delete(client, record["id"])).status_code == 200
    assert_failure(
        await client.post(f"{GENERATIONS}/{record['id']}/restore"), 404, "GENERATION_NOT_FOUND"
    )
    assert_failure(await client.get(record["outputImage"]["storageUrl"]), 404, "NOT_FOUND")


async def test_what_has_not_ended_is_cancelled_on_its_way_into_the_bin(client, worker):
    created = await client.create(autoEnhance=False)
    worker.begin(created["id"])
    await delete(client, created["id"], soft="true")
    assert not worker.step(created["id"], 2)
    record = await client.record(created["id"])
    assert (record["status"], record["errorMessage"]) == ("failed", "Cancelled")


async def test_soft_false_is_a_delete_for_good(client):
    created = await client.create()
    await delete(client, created["id"], soft="false")
    assert (await client.listed(includeDeleted="true"))["data"] == []
