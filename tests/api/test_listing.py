from __future__ import annotations

import pytest

from tests.support.api_server import GENERATIONS

pytestmark = pytest.mark.anyio


async def test_an_empty_list(client):
    assert await client.listed() == {
        "success": True,
        "data": [],
        "pagination": {"limit": 20, "offset": 0, "total": 0, "hasMore": False},
    }


async def test_the_newest_comes_first(server, client):
    ids = []
    for _ in range(3):
        ids.append((await client.create())["id"])
        server.clock.advance(milliseconds=1)
    assert [item["id"] for item in (await client.listed())["data"]] == ids[::-1]


async def test_pages_neither_repeat_nor_skip_when_all_times_are_equal(client):
    made = {(await client.create())["id"] for _ in range(23)}
    first = await client.listed()
    assert first["pagination"] == {"limit": 20, "offset": 0, "total": 23, "hasMore": True}
    second = await client.listed(offset=20)
    assert second["pagination"] == {"limit": 20, "offset": 20, "total": 23, "hasMore": False}
    ids = [item["id"] for item in first["data"] + second["data"]]
    assert len(ids) == 23
    assert set(ids) == made
    by_threes = [
        item["id"]
        for offset in range(0, 23, 3)
        for item in (await client.listed(limit=3, offset=offset))["data"]
    ]
    assert by_threes == ids


@pytest.mark.parametrize(
    ("limit", "offset", "items", "has_more"),
    [(1, 0, 1, True), (2, 1, 2, False), (3, 0, 3, False), (100, 2, 1, False), (5, 3, 0, False)],
)
async def test_has_more_is_true_only_before_the_end(client, limit, offset, items, has_more):
    for _ in range(3):
        await client.create()
    page = await client.listed(limit=limit, offset=offset)
    assert len(page["data"]) == items
    assert page["pagination"] == {
        "limit": limit,
        "offset": offset,
        "total": 3,
        "hasMore": has_more,
    }


async def test_an_offset_far_beyond_the_end_is_an_empty_page(client):
    await client.create()
    page = await client.listed(offset=2**53 - 1)
    assert page["data"] == []
    assert page["pagination"]["hasMore"] is False


async def test_the_list_filters_by_status(client, worker):
    ids = {}
    for status in ("pending", "processing", "success", "failed"):
        ids[status] = (await client.create(autoEnhance=False, meta={"to be": status}))["id"]
    # Oldest first: what is taken on the way to a row must not be one that stays pending.
    pending = ids.pop("pending")
    worker.take("paint", pending)
    worker.begin(ids["processing"])
    worker.paint(ids["success"])
    worker.fail(ids["failed"], "out of paint")
    ids["pending"] = (await client.create())["id"]
    await client.delete(f"{GENERATIONS}/{pending}")
    for status, generation_id in ids.items():
        page = await client.listed(status=status)
        assert [item["id"] for item in page["data"]] == [generation_id]
        assert page["data"][0]["status"] == status
        assert page["pagination"]["total"] == 1


async def test_the_bin_is_listed_only_when_asked_for(client):
    kept, binned = await client.create(), await client.create()
    await client.delete(f"{GENERATIONS}/{binned['id']}", params={"soft": "true"})
    page = await client.listed()
    assert [item["id"] for item in page["data"]] == [kept["id"]]
    assert page["pagination"]["total"] == 1
    page = await client.listed(includeDeleted="false")
    assert page["pagination"]["total"] == 1
    page = await client.listed(includeDeleted="true")
    assert {item["id"] for item in page["data"]} == {kept["id"], binned["id"]}
    assert page["pagination"]["total"] == 2


async def test_status_and_bin_are_combined(client):
    await client.create()
    binned = await client.create()
    await client.delete(f"{GENERATIONS}/{binned['id']}", params={"soft": "true"})
    assert (await client.listed(status="failed"))["pagination"]["total"] == 0
    page = await client.listed(status="failed", includeDeleted="true")
    assert [item["id"] for item in page["data"]] == [binned["id"]]
