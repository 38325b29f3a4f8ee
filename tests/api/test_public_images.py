"""Public image URLs: by id and by alias, whole and as smaller copies, for whoever knows them."""

from __future__ import annotations

import asyncio
import io
import shutil

import pytest
from PIL import Image as PillowImage

from tests.api.test_failures import UNKNOWN_ID
from tests.support.api_server import assert_failure, serving

pytestmark = pytest.mark.anyio

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


class Shelf:
    """A project with one image, `@fox`, of 48 by 32 pixels, and a visitor without a key."""

    def __init__(self, server, client):
        self.server = server
        self.client = client
        self.visitor = server.visitor()
        project = server.services.projects.find(client.project_id)
        self.base = f"/cdn/{project.organization_slug}/{project.slug}/img/"

    async def fill(self):
        created = await self.client.create(autoEnhance=False, alias="@fox")
        self.generation_id = created["id"]
        self.content = self.server.worker.paint(created["id"])
        record = await self.client.record(created["id"])
        self.image_id = record["outputImageId"]
        return self

    async def get(self, reference=None, headers=None, **query):
        url = self.base + (reference or self.image_id)
        return await self.visitor.get(url, params=query, headers=headers or {})

    def copies(self):
        """The smaller copies of the image on the disk."""
        folder = self.server.data / "thumbnails" / self.image_id[:2] / self.image_id
        return sorted(folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
async def shelf(server, client):
    return await Shelf(server, client).fill()


def opened(response):
    image = PillowImage.open(io.BytesIO(response.content))
    image.load()
    assert response.headers["content-type"] == PillowImage.MIME[image.format]
    return image


@pytest.mark.parametrize(
    ("alias", "caching"),
    [(None, "public, max-age=31536000"), ("@fox", "public, max-age=60"), ("%40fox", None)],
)
async def test_an_image_is_served_by_its_id_and_its_alias(shelf, alias, caching):
    response = await shelf.get(alias)
    assert response.status_code == 200, response.text
    assert response.content == shelf.content
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-image-id"] == shelf.image_id
    assert response.headers["cache-control"] == caching or caching is None
    assert response.headers["cross-origin-resource-policy"] == "cross-origin"
    assert "x-ratelimit-limit" not in response.headers


async def test_an_id_in_capitals_is_the_same_id(shelf):
    assert (await shelf.get(shelf.image_id.upper())).content == shelf.content


@pytest.mark.parametrize("reference", [None, "@fox"])
async def test_what_the_browser_has_is_not_sent_again(shelf, reference):
    etag = (await shelf.get(reference)).headers["etag"]
    response = await shelf.get(reference, headers={"If-None-Match": etag})
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["x-image-id"] == shelf.image_id
    part = await shelf.get(reference, headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"\x89PNG")


async def test_an_alias_follows_the_image_that_it_is_given_to(server, client, shelf):
    etag = (await shelf.get("@fox")).headers["etag"]
    created = await client.create(autoEnhance=False, alias="@fox")
    content = server.worker.paint(created["id"])
    moved = await shelf.get("@fox", headers={"If-None-Match": etag})
    assert (moved.status_code, moved.content) == (200, content)
    assert moved.headers["x-image-id"] != shelf.image_id
    assert (await shelf.get()).content == shelf.content


async def test_an_alias_that_moves_while_it_is_read_is_always_one_image_or_the_other(
    server, client, shelf
):
    created = await client.create(autoEnhance=False)
    other = server.worker.paint(created["id"])
    other_id = (await client.record(created["id"]))["outputImageId"]
    known = {shelf.image_id: shelf.content, other_id: other}

    async def move():
        for image_id in (other_id, shelf.image_id) * 5:
            holder = other_id if image_id == shelf.image_id else shelf.image_id
            for owner, alias in ((holder, None), (image_id, "@fox")):
                url = f"/api/v1/images/{owner}/alias"
                assert (await client.put(url, json={"alias": alias})).status_code == 200

    moving = asyncio.create_task(move())
    while not moving.done():
        response = await shelf.get("@fox")
        if response.status_code == 404:
            assert_failure(response, 404, "ALIAS_NOT_FOUND")
        else:
            assert response.content == known[response.headers["x-image-id"]]
    await moving


@pytest.mark.parametrize(
    ("query", "size"),
    [
        ({"w": 24}, (24, 16)),
        ({"h": 8}, (12, 8)),
        ({"w": 24, "h": 8}, (12, 8)),
        ({"w": 24, "h": 2000}, (24, 16)),
        ({"w": 2048}, (48, 32)),
        ({"w": 1}, (1, 1)),
    ],
)
async def test_a_smaller_copy_fits_into_what_is_asked_for(shelf, query, size):
    response = await shelf.get(**query)
    assert response.status_code == 200, response.text
    image = opened(response)
    assert (image.size, image.format) == (size, "PNG")
    assert response.headers["x-image-id"] == shelf.image_id


@pytest.mark.parametrize("name", FORMATS)
async def test_an_image_is_served_in_another_format(shelf, name):
    image = opened(await shelf.get("@fox", format=name))
    assert (image.size, image.format) == ((48, 32), FORMATS[name])
    small = opened(await shelf.get(format=name, w=24))
    assert (small.size, small.format) == ((24, 16), FORMATS[name])


@pytest.mark.parametrize("query", [{}, {"w": 48}, {"w": 100, "h": 100}, {"format": "png"}])
async def test_what_is_no_smaller_is_the_image_itself(shelf, query):
    assert (await shelf.get(**query)).content == shelf.content
    assert shelf.copies() == []


async def test_a_copy_is_made_once_and_again_when_its_folder_was_deleted(server, shelf):
    first = await shelf.get(w=24)
    [copy] = shelf.copies()
    made = copy.stat().st_mtime_ns
    again = await shelf.get(w=24)
    assert again.content == first.content
    assert again.headers["etag"] == first.headers["etag"]
    assert [each.stat().st_mtime_ns for each in shelf.copies()] == [made]
    shutil.rmtree(server.data / "thumbnails")
    assert (await shelf.get(w=24)).content == first.content
    assert len(shelf.copies()) == 1


async def test_many_that_ask_for_one_copy_all_get_it(shelf):
    responses = await asyncio.gather(*(shelf.get(w=30, format="webp") for _ in range(12)))
    assert {response.status_code for response in responses} == {200}
    assert len({response.content for response in responses}) == 1
    assert len(shelf.copies()) == 1


async def test_the_copies_of_an_image_that_is_made_again_are_made_again(server, client, shelf):
    before = await shelf.get(w=24)
    response = await client.post(f"/api/v1/generations/{shelf.generation_id}/regenerate")
    assert response.status_code == 200, response.text
    assert (await shelf.get(w=24)).content == before.content
    server.worker.paint(shelf.generation_id)
    assert (await shelf.get(w=24)).content != before.content
    assert len(shelf.copies()) == 1


@pytest.mark.parametrize("method", ["generations", "images"])
async def test_a_deleted_image_and_its_copies_are_gone(client, shelf, method):
    await shelf.get(w=24)
    await client.put(f"/api/v1/images/{shelf.image_id}/alias", json={"alias": None})
    what = shelf.generation_id if method == "generations" else shelf.image_id
    assert (await client.delete(f"/api/v1/{method}/{what}")).status_code == 200
    assert_failure(await shelf.get(), 404, "IMAGE_NOT_FOUND")
    assert_failure(await shelf.get(w=24), 404, "IMAGE_NOT_FOUND")
    assert shelf.copies() == []


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        (UNKNOWN_ID, "IMAGE_NOT_FOUND"),
        ("fox", "IMAGE_NOT_FOUND"),
        ("..%2F..%2Fbanatie.db", "NOT_FOUND"),
        ("@cat", "ALIAS_NOT_FOUND"),
        ("@", "ALIAS_NOT_FOUND"),
        ("@last", "ALIAS_NOT_FOUND"),
        ("@first", "ALIAS_NOT_FOUND"),
        ("@upload", "ALIAS_NOT_FOUND"),
    ],
)
async def test_what_is_not_there_is_404(shelf, reference, code):
    assert_failure(await shelf.visitor.get(shelf.base + reference), 404, code)


async def test_another_projects_image_is_not_there(server, shelf):
    other = Shelf(server, server.client())
    assert_failure(await other.get(shelf.image_id), 404, "IMAGE_NOT_FOUND")
    assert_failure(await other.get("@fox"), 404, "ALIAS_NOT_FOUND")


@pytest.mark.parametrize("place", ["nobody/default", "default/nothing"])
async def test_a_project_that_is_not_there_is_404(shelf, place):
    response = await shelf.visitor.get(f"/cdn/{place}/img/{shelf.image_id}")
    assert_failure(response, 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *((f"{side}={value}", side) for side in "wh" for value in ("0", "-1", "2049", "1.5", "x")),
        *((f"w={value}", "w") for value in ("", "%D9%A3", "9999999", "1_0", "+5")),
        ("format=gif", "format"),
        ("format=PNG", "format"),
        ("format=", "format"),
        ("width=24", "width"),
        ("w=1&w=2", "w"),
    ],
)
async def test_a_wrong_copy_is_refused(shelf, query, field):
    url = f"{shelf.base}{shelf.image_id}?{query}"
    assert_failure(await shelf.visitor.get(url), 400, "VALIDATION_ERROR", field)
    picture = await shelf.visitor.get(url, headers={"Accept": "image/*"})
    assert (picture.status_code, opened(picture).size) == (400, (512, 288))


async def test_other_methods_are_refused(shelf):
    response = await shelf.visitor.delete(shelf.base + shelf.image_id)
    assert_failure(response, 405, "METHOD_NOT_ALLOWED")
    head = await shelf.visitor.head(shelf.base + shelf.image_id)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(shelf.content)


async def test_public_pictures_can_be_at_another_address(tmp_path):
    settings = {"server__cdn_url": "https://cdn.example.org/p/", "server__public_url": "http://a.b"}
    async with serving(tmp_path, **settings) as server:
        shelf = await Shelf(server, server.client()).fill()
        record = await shelf.client.record(shelf.generation_id)
        url = record["outputImage"]["storageUrl"]
        assert url.startswith("https://cdn.example.org/p/storage/default/")
        path = url.removeprefix("https://cdn.example.org/p")
        assert (await shelf.visitor.get(path)).content == shelf.content
