"""Live URLs: one image for one URL, made on the first request, whoever and however many ask."""

from __future__ import annotations

import asyncio
import io
import itertools

import pytest
from PIL import Image as PillowImage

from tests.support.api_server import PATIENCE, assert_failure, serving
from tests.support.polling import wait_until_async

pytestmark = pytest.mark.anyio

ADDRESSES = itertools.count()
PROMPT = {"prompt": "a red fox", "autoEnhance": "false"}
IMAGE = {"Accept": "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"}


def new_address():
    """An address that no other test has: new images are counted by address."""
    number = next(ADDRESSES)
    return f"10.7.{number >> 8}.{number & 255}"


class Page:
    """A visitor who sees the live images of one project, and the project's client."""

    def __init__(self, server, client, address="127.0.0.1"):
        self.server = server
        self.client = client
        self.visitor = server.visitor(address)
        self.project = server.services.projects.find(client.project_id)
        self.base = f"/cdn/{self.project.organization_slug}/{self.project.slug}/live/"

    async def get(self, scope="hero", headers=None, **query):
        return await self.visitor.get(
            self.base + scope, params={**PROMPT, **query}, headers=headers or {}
        )

    def start(self, *arguments, **query):
        return asyncio.create_task(self.get(*arguments, **query))

    async def waiting(self, number=1):
        """The ids of the generations that requests wait for, oldest first, once there are some."""
        rows = await wait_until_async(
            lambda: self._pending(number), f"{number} generations", PATIENCE
        )
        for row in rows:
            await self.server.wait_until_waiting(row.id)
        return [row.id for row in rows]

    def _pending(self, number):
        rows = [row for row in self.server.generations_of(self.client) if not row.is_ended]
        return rows[::-1] if len(rows) >= number else None

    async def painted(self, scope="hero", **query):
        """Have the image made; its bytes."""
        asking = self.start(scope, **query)
        [generation_id] = await self.waiting()
        content = self.server.worker.paint(generation_id)
        response = await asking
        assert response.status_code == 200, response.text
        assert response.content == content
        return content


@pytest.fixture
def page(server, client):
    return Page(server, client, new_address())


def stranger(page, number):
    """Somebody else who looks at the same page."""
    return Page(page.server, page.client, f"192.0.2.{number}")


# --- Made once, then served -----------------------------------------------------------------------


async def test_the_first_request_waits_for_the_image_and_the_next_finds_it(server, client, page):
    asking = page.start()
    [generation_id] = await page.waiting()
    assert not asking.done()
    content = server.worker.paint(generation_id)
    miss = await asking
    hit = await page.get()
    for response, status in ((miss, "MISS"), (hit, "HIT")):
        assert response.status_code == 200
        assert response.content == content
        assert response.headers["content-type"] == "image/png"
        assert response.headers["x-cache-status"] == status
        assert response.headers["x-scope"] == "hero"
        assert response.headers["x-generation-id"] == generation_id
        assert response.headers["cache-control"] == "public, max-age=31536000"
        assert response.headers["cross-origin-resource-policy"] == "cross-origin"
        assert "x-ratelimit-limit" not in response.headers
    record = await client.record(generation_id)
    assert hit.headers["x-image-id"] == miss.headers["x-image-id"] == record["outputImageId"]
    assert (record["prompt"], record["aspectRatio"]) == ("a red fox", "1:1")
    assert len(server.generations_of(client)) == 1
    metrics = (await page.visitor.get("/metrics")).text
    counted = 'route="/cdn/{organization_slug}/{project_slug}/live/{scope_slug}",status="200"} '
    assert float(metrics.split(counted)[1].split()[0]) >= 2
    assert metrics.count(counted) == 1


async def test_the_parameters_are_those_of_the_generation(server, client, page):
    asking = page.start(aspectRatio="16:9", autoEnhance="true", template="comic")
    [generation_id] = await page.waiting()
    record = await client.record(generation_id)
    assert (record["aspectRatio"], record["autoEnhance"], record["template"]) == (
        *("16:9", True, "comic"),
    )
    server.worker.enhance(generation_id, "a red fox, inked")
    server.worker.paint(generation_id)
    assert (await asking).status_code == 200


async def test_requests_that_mean_the_same_have_one_image(server, client, page):
    await page.painted()
    same = f"{page.base}hero?template=general&autoEnhance=false&prompt=a+red%20fox&aspectRatio=1:1"
    assert (await page.visitor.get(same)).headers["x-cache-status"] == "HIT"
    assert len(server.generations_of(client)) == 1


@pytest.mark.parametrize(
    ("scope", "query"),
    [
        ("hero", {"prompt": "a red fox "}),
        ("hero", {"aspectRatio": "3:2"}),
        ("hero", {"template": "sticker"}),
        ("hero", {"autoEnhance": "true"}),
        ("Hero", {}),
    ],
)
async def test_another_scope_or_parameter_is_another_image(server, client, page, scope, query):
    await page.painted()
    asking = page.start(scope, **query)
    [generation_id] = await page.waiting()
    if query.get("autoEnhance"):
        server.worker.enhance(generation_id, "a red fox, enhanced")
    server.worker.paint(generation_id)
    assert (await asking).headers["x-cache-status"] == "MISS"
    assert len(server.generations_of(client)) == 2


async def test_another_projects_url_is_another_image(server, page):
    await page.painted()
    other = Page(server, server.client(), "192.0.2.200")
    await other.painted()
    assert len(server.generations_of(other.client)) == 1


@pytest.mark.parametrize("name", ["@last", "@logo"])
async def test_a_prompt_cannot_show_the_projects_images(server, client, page, name):
    created = await client.create(autoEnhance=False, alias="@logo")
    server.worker.paint(created["id"])
    asking = page.start(prompt=f"a mug with {name}")
    [generation_id] = await page.waiting()
    assert server.services.generations.find(generation_id).reference_images == ()
    server.worker.paint(generation_id)
    assert (await asking).status_code == 200


async def test_two_first_requests_at_once_make_one_image_and_both_get_it(server, client, page):
    asking = [stranger(page, number).start() for number in range(5)]
    [generation_id] = await page.waiting()
    await server.wait_until_waiting(generation_id, len(asking))
    content = server.worker.paint(generation_id)
    responses = await asyncio.gather(*asking)
    assert [response.content for response in responses] == [content] * 5
    assert len(server.generations_of(client)) == 1


async def test_what_the_browser_has_is_not_sent_again(page):
    await page.painted()
    etag = (await page.get()).headers["etag"]
    response = await page.get(headers={"If-None-Match": etag})
    assert response.status_code == 304
    assert response.content == b""
    assert response.headers["x-cache-status"] == "HIT"
    assert response.headers["cache-control"] == "public, max-age=31536000"
    part = await page.get(headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"\x89PNG")


async def test_head_says_what_get_would(page):
    content = await page.painted()
    response = await page.visitor.head(page.base + "hero", params=PROMPT)
    assert response.status_code == 200
    assert response.content == b""
    assert int(response.headers["content-length"]) == len(content)


async def test_other_methods_are_refused(page):
    await page.painted()
    response = await page.visitor.post(page.base + "hero", params=PROMPT)
    assert_failure(response, 405, "METHOD_NOT_ALLOWED")


async def test_a_hit_looks_into_the_database_once(server, page, monkeypatch):
    await page.painted()
    statements = []
    for method in ("first", "query"):
        read = getattr(server.services.database, method)

        def observed(sql, parameters=(), read=read):
            statements.append(sql)
            return read(sql, parameters)

        monkeypatch.setattr(server.services.database, method, observed)
    assert (await page.get()).headers["x-cache-status"] == "HIT"
    assert len([sql for sql in statements if "data_version" not in sql and "keys" not in sql]) == 1


# --- Slow, failed and deleted images --------------------------------------------------------------


async def test_a_request_that_waits_too_long_is_told_to_come_back(tmp_path):
    async with serving(tmp_path, live__wait=0.05) as server:
        client = server.client()
        page = Page(server, client)
        late = await page.get()
        assert_failure(late, 503, "SERVICE_UNAVAILABLE")
        assert int(late.headers["retry-after"]) >= 1
        assert late.headers["cache-control"] == "no-store"
        # The work goes on, and asking again does not begin it anew.
        assert (await page.get()).status_code == 503
        [row] = server.generations_of(client)
        content = server.worker.paint(row.id)
        found = await page.get()
        assert (found.content, found.headers["x-cache-status"]) == (content, "HIT")


async def test_a_failed_image_is_said_and_not_kept(server, client, page):
    asking = page.start()
    [generation_id] = await page.waiting()
    server.worker.fail(generation_id, "Out of memory")
    error = assert_failure(await asking, 500, "GENERATION_FAILED")
    assert error == {"code": "GENERATION_FAILED", "message": "Out of memory"}
    await page.painted()
    assert len(server.generations_of(client)) == 2


@pytest.mark.parametrize("query", ["", "?soft=true"])
async def test_a_deleted_image_is_made_again(server, client, page, query):
    await page.painted()
    generation_id = (await page.get()).headers["x-generation-id"]
    await client.delete(f"/api/v1/generations/{generation_id}{query}")
    await page.painted()
    assert (await page.get()).headers["x-generation-id"] != generation_id


async def test_a_generation_that_is_deleted_while_it_is_waited_for_is_404(client, page):
    asking = page.start()
    [generation_id] = await page.waiting()
    await client.delete(f"/api/v1/generations/{generation_id}")
    assert_failure(await asking, 404, "GENERATION_NOT_FOUND")


async def test_an_image_whose_file_is_lost_is_404(server, client, page):
    await page.painted()
    for file in (server.data / "storage").rglob("*.png"):
        if client.project_id in str(file):
            file.unlink()
    assert_failure(await page.get(), 404, "NOT_FOUND")


# --- Wrong requests -------------------------------------------------------------------------------

WRONG = [
    ("hero", "", "VALIDATION_ERROR", "prompt"),
    ("hero", "prompt=", "VALIDATION_ERROR", "prompt"),
    ("hero", "prompt=+%0A", "VALIDATION_ERROR", "prompt"),
    ("hero", "prompt=a&prompt=b", "VALIDATION_ERROR", "prompt"),
    ("hero", "prompt=" + "x" * 4001, "VALIDATION_ERROR", "prompt"),
    ("hero", "prompt=%ff", "VALIDATION_ERROR", None),
    ("hero", "prompt=a&aspectRatio=4:3", "VALIDATION_ERROR", "aspectRatio"),
    ("hero", "prompt=a&autoEnhance=yes", "VALIDATION_ERROR", "autoEnhance"),
    ("hero", "prompt=a&template=cubism", "VALIDATION_ERROR", "template"),
    ("hero", "prompt=a&seed=7", "VALIDATION_ERROR", "seed"),
    ("my%20hero", "prompt=a", "SCOPE_INVALID_FORMAT", None),
    ("h%C3%A9ro", "prompt=a", "SCOPE_INVALID_FORMAT", None),
    ("x" * 101, "prompt=a", "SCOPE_INVALID_FORMAT", None),
]


@pytest.mark.parametrize(("scope", "query", "code", "field"), WRONG)
async def test_a_wrong_url_is_a_400_in_json(server, client, page, scope, query, code, field):
    response = await page.visitor.get(f"{page.base}{scope}?{query}")
    assert_failure(response, 400, code, field)
    assert server.generations_of(client) == []


@pytest.mark.parametrize(("scope", "query", "code", "field"), WRONG)
async def test_a_wrong_url_is_a_small_picture_where_an_image_is_shown(
    page, scope, query, code, field
):
    response = await page.visitor.get(f"{page.base}{scope}?{query}", headers=IMAGE)
    assert response.status_code == 400
    assert response.headers["content-type"] == "image/png"
    assert response.headers["cross-origin-resource-policy"] == "cross-origin"
    assert response.headers["cache-control"] == "no-store"
    assert len(response.content) < 20_000
    picture = PillowImage.open(io.BytesIO(response.content))
    assert picture.size == (512, 288)
    assert len(picture.getcolors(100_000)) > 10, "something is written on it"


async def test_two_different_errors_are_two_different_pictures(page):
    one, other = [
        (await page.visitor.get(f"{page.base}hero?{query}", headers=IMAGE)).content
        for query in ("prompt=", "prompt=a&template=cubism")
    ]
    assert one != other


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("image/*", "image/png"),
        ("image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5", "image/png"),
        ("text/html,application/xhtml+xml,image/avif,image/webp,*/*;q=0.8", "application/json"),
        ("*/*", "application/json"),
        ("", "application/json"),
        ("application/json, image/*", "application/json"),
        ("image/png;q=0", "application/json"),
    ],
)
async def test_who_shows_images_gets_a_picture_and_who_does_not_json(page, accept, media_type):
    response = await page.visitor.get(page.base + "hero", headers={"Accept": accept})
    assert response.status_code == 400
    assert response.headers["content-type"] == media_type


@pytest.mark.parametrize("place", ["nobody/default", "default/nothing", "default/..%2F"])
async def test_a_project_that_is_not_there_is_404(page, place):
    response = await page.visitor.get(f"/cdn/{place}/live/hero", params=PROMPT)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "NOT_FOUND"


# --- Limits ---------------------------------------------------------------------------------------


async def test_an_address_makes_ten_new_images_an_hour(tmp_path):
    async with serving(tmp_path, live__wait=0) as server:
        client = server.client()
        page = Page(server, client, "192.0.2.1")

        async def asked(number, visitor=page):
            return (await visitor.get(f"scope-{number}", prompt=f"fox {number}")).status_code

        assert [await asked(number) for number in range(10)] == [503] * 10
        over = await page.get("scope-11", prompt="fox 11")
        error = assert_failure(over, 429, "RATE_LIMIT_EXCEEDED")
        assert "10 new images" in error["message"]
        assert int(over.headers["retry-after"]) == 3600
        # What is there, or being made, is for everybody; and others have limits of their own.
        assert await asked(3) == 503
        [first] = [row for row in server.generations_of(client) if row.prompt == "fox 0"]
        server.worker.paint(first.id)
        assert await asked(0) == 200
        assert await asked(12, Page(server, client, "192.0.2.2")) == 503
        server.clock.advance(hours=1)
        assert await asked(13) == 503


async def test_the_limit_of_an_address_can_be_set_and_turned_off(tmp_path):
    for limit, last in ((2, 429), (0, 503)):
        data = tmp_path / str(limit)
        async with serving(data, live__wait=0, live__new_per_hour_address=limit) as server:
            page = Page(server, server.client())
            for number in range(3):
                status = (await page.get(prompt=f"fox {number}")).status_code
            assert status == last


async def test_a_request_that_is_refused_for_another_reason_does_not_count(tmp_path):
    settings = {"live__wait": 0, "live__new_per_hour_address": 1, "limits__queue_size": 1}
    async with serving(tmp_path, **settings) as server:
        client = server.client()
        blocking = await client.create()
        page = Page(server, client)
        full = await page.get()
        assert_failure(full, 503, "QUEUE_FULL")
        assert full.headers["retry-after"]
        await client.delete(f"/api/v1/generations/{blocking['id']}")
        assert_failure(await page.get(), 503, "SERVICE_UNAVAILABLE")


async def test_a_scope_makes_thirty_new_images_an_hour_also_for_fifty_at_once(tmp_path):
    async with serving(tmp_path, live__wait=0) as server:
        client = server.client()
        pages = [Page(server, client, f"192.0.2.{number}") for number in range(50)]
        responses = await asyncio.gather(
            *(page.get(prompt=f"fox {number}") for number, page in enumerate(pages))
        )
        statuses = [response.status_code for response in responses]
        assert (statuses.count(503), statuses.count(429)) == (30, 20)
        assert len(server.generations_of(client)) == 30
        refused = next(each for each in responses if each.status_code == 429)
        assert int(refused.headers["retry-after"]) == 3600
        assert "30 new images in this scope" in refused.json()["error"]["message"]
        # Those that were refused do not count for their addresses.
        again = pages[statuses.index(429)]
        for number in range(10):
            assert (await again.get(f"other-{number}", prompt=f"cat {number}")).status_code == 503
        server.clock.advance(hours=1)
        assert (await again.get(prompt="a hen")).status_code == 503


async def test_the_limit_of_a_scope_survives_a_restart(tmp_path):
    settings = {"live__wait": 0, "live__new_per_hour_scope": 2}
    async with serving(tmp_path, **settings) as server:
        client = server.client()
        page = Page(server, client)
        for number in range(2):
            assert (await page.get(prompt=f"fox {number}")).status_code == 503
        clock, key = server.clock, client.key
    async with serving(tmp_path, clock, **settings) as server:
        page = Page(server, server.client(key))
        assert (await page.get(prompt="fox 3")).status_code == 429
        assert (await page.get(prompt="fox 1")).status_code == 503


async def test_live_urls_can_be_kept_from_making_images(tmp_path):
    async with serving(tmp_path) as server:
        client = server.client()
        content = await Page(server, client).painted()
        key = client.key
    async with serving(tmp_path, live__generate=False) as server:
        page = Page(server, server.client(key))
        assert (await page.get()).content == content
        error = assert_failure(await page.get(prompt="a hen"), 403, "FORBIDDEN")
        assert "live.generate" in error["message"]


async def test_a_picture_that_says_so_is_shown_where_a_limit_is_reached(tmp_path):
    async with serving(tmp_path, live__wait=0, live__new_per_hour_address=1) as server:
        page = Page(server, server.client())
        late = await page.get(headers=IMAGE)
        assert (late.status_code, late.headers["content-type"]) == (503, "image/png")
        assert late.headers["retry-after"]
        over = await page.get(headers=IMAGE, prompt="a hen")
        assert (over.status_code, over.headers["content-type"]) == (429, "image/png")
        assert over.headers["retry-after"]
