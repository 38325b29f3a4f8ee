"""The list's filters, search and positions, its months, favourites, and pictures as a zip."""

from __future__ import annotations

import io
import uuid
import zipfile

import pytest

from tests.support.api_server import GENERATIONS, assert_failure

pytestmark = pytest.mark.anyio


def ids(page):
    return [item["id"] for item in page["data"]]


def place(item):
    return f"{item['createdAt']}_{item['id']}"


async def test_a_position_reads_on_where_a_page_ends(server, client):
    made = []
    for _ in range(5):
        made.insert(0, await client.create())
        server.clock.advance(milliseconds=1)
    page = await client.listed(limit=2, before=place(made[1]))
    assert ids(page) == [made[2]["id"], made[3]["id"]]
    assert page["pagination"] == {"limit": 2, "offset": 0, "total": 5, "hasMore": True}
    page = await client.listed(limit=2, before=place(made[3]))
    assert (ids(page), page["pagination"]["hasMore"]) == ([made[4]["id"]], False)
    page = await client.listed(limit=2, after=place(made[3]))
    assert ids(page) == [made[1]["id"], made[2]["id"]]
    # A new generation does not move what a position reads; nor does one that is gone.
    await client.delete(f"{GENERATIONS}/{made[1]['id']}")
    await client.create()
    assert ids(await client.listed(limit=1, before=place(made[1]))) == [made[2]["id"]]
    page = await client.listed(after=made[2]["createdAt"], before=made[0]["createdAt"])
    assert ids(page) == [made[2]["id"]]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("before=yesterday", "before"),
        ("before=2025-13-28T10:00:00.000Z", "before"),
        ("after=2025-11-28T10:00:00.000Z_x", "after"),
        ("after=2025-11-28T10:00:00.000", "after"),
        ("before=", "before"),
        ("offset=1&before=2025-11-28T10:00:00Z", "offset"),
        ("q=", "q"),
        ("q=%F0%9F%A6%8A", "q"),
        ("q=" + "a" * 201, "q"),
        ("template=cubist", "template"),
        ("template=null", "template"),
        ("favourite=maybe", "favourite"),
        ("favourite=null", "favourite"),
    ],
)
async def test_what_cannot_be_listed_is_refused_by_name(client, query, name):
    assert_failure(await client.get(f"{GENERATIONS}?{query}"), 400, "VALIDATION_ERROR", name)


async def test_search_and_filters(client, worker):
    fox = await client.painted(worker, prompt="a red fox in the snow")
    cat = await client.create(prompt="a cat", enhancementOptions={"template": "comic"})
    null = await client.create(prompt="null and void")
    assert ids(await client.listed(q="sno fox")) == [fox["id"]]
    assert ids(await client.listed(q="null")) == [null["id"]]
    assert ids(await client.listed(template="comic")) == [cat["id"]]
    assert ids(await client.listed(model="tiny-painter")) == [fox["id"]]
    assert ids(await client.listed(model="null")) == []
    assert (await client.listed(q="elephant"))["pagination"]["total"] == 0


async def test_a_favourite_is_only_a_mark(client, worker):
    made = await client.painted(worker)
    other = await client.painted(worker)
    assert made["favourite"] is False
    response = await client.put(f"{GENERATIONS}/{made['id']}", json={"favourite": True})
    marked = response.json()["data"]
    assert (marked["favourite"], marked["status"]) == (True, "success")
    assert ids(await client.listed(favourite="true")) == [made["id"]]
    assert ids(await client.listed(favourite="false")) == [other["id"]]
    await client.put(f"{GENERATIONS}/{made['id']}", json={"favourite": False})
    assert ids(await client.listed(favourite="true")) == []
    response = await client.put(f"{GENERATIONS}/{made['id']}", json={"favourite": 1})
    assert_failure(response, 400, "VALIDATION_ERROR", "favourite")


async def test_months_of_the_same_filters(server, client):
    await client.create()
    await client.create(prompt="a cat")
    month = (await client.listed())["data"][0]["createdAt"][:7]
    answer = (await client.get(f"{GENERATIONS}/months")).json()
    assert answer == {"success": True, "data": {"months": [{"month": month, "count": 2}]}}
    answer = (await client.get(f"{GENERATIONS}/months", params={"q": "cat"})).json()
    assert answer["data"]["months"] == [{"month": month, "count": 1}]
    response = await client.get(f"{GENERATIONS}/months?limit=1")
    assert_failure(response, 400, "VALIDATION_ERROR", "limit")


async def test_a_zip_holds_the_pictures_under_telling_names(client, worker):
    made = [await client.painted(worker, prompt="A red fox, ../etc/ in the snow!") for _ in "ab"]
    query = ",".join(each["id"] for each in made)
    response = await client.get(f"{GENERATIONS}/zip?ids={query}")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["content-disposition"].startswith('attachment; filename="banatie-')
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        for each, name in zip(made, names, strict=True):
            assert name.endswith(f"-a-red-fox-etc-in-the-{each['id'][:8]}.png")
            stored = await client.get(each["outputImage"]["storageUrl"])
            assert archive.read(name) == stored.content


async def test_what_cannot_be_packed_is_named(server, client, worker):
    made = await client.painted(worker)
    waiting = await client.create()
    foreign = await server.client().painted(worker)
    for wanted, word in (
        ("", "''"),
        (f"{made['id']},x", "'x'"),
        (waiting["id"], "no picture"),
        (foreign["id"], foreign["id"]),
        (",".join(str(uuid.uuid4()) for _ in range(201)), "200"),
    ):
        response = await client.get(f"{GENERATIONS}/zip", params={"ids": wanted})
        assert word in str(assert_failure(response, 400, "VALIDATION_ERROR", "ids"))
    assert_failure(await client.get(f"{GENERATIONS}/zip"), 400, "VALIDATION_ERROR")
    server.services.files.path(made["outputImage"]["storageUrl"].partition("/storage/")[2]).unlink()
    response = await client.get(f"{GENERATIONS}/zip?ids={made['id']}")
    assert_failure(response, 400, "VALIDATION_ERROR", "ids")
