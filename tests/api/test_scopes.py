"""The scopes of live URLs: made, listed, changed and deleted, by their own project alone."""

from __future__ import annotations

import asyncio

import pytest

from tests.api.test_failures import UNKNOWN_ID
from tests.api.test_live import PROMPT, Page, new_address, stranger
from tests.support.api_server import GENERATIONS, assert_failure, serving

pytestmark = pytest.mark.anyio

SCOPES = "/api/v1/live/scopes"
ROUTES = [
    ("GET", "/hero"),
    ("PUT", "/hero"),
    ("DELETE", "/hero"),
    ("POST", "/hero/regenerate"),
]


@pytest.fixture
def page(server, client):
    return Page(server, client, new_address())


async def create(client, slug="hero", **body):
    response = await client.post(SCOPES, json={"slug": slug, **body})
    assert response.status_code == 201, response.text
    return response.json()["data"]


async def shown(client, slug="hero"):
    response = await client.get(f"{SCOPES}/{slug}")
    assert response.status_code == 200, response.text
    return response.json()["data"]


async def test_a_new_scope_has_every_field(client):
    created = await create(client)
    assert {**created, "id": "", "createdAt": "", "updatedAt": ""} == {
        "id": "",
        "projectId": client.project_id,
        "slug": "hero",
        "allowNewGenerations": True,
        "newGenerationsLimit": 30,
        "currentGenerations": 0,
        "lastGeneratedAt": None,
        "meta": {},
        "createdAt": "",
        "updatedAt": "",
    }
    assert await shown(client) == created


async def test_what_is_given_is_what_the_scope_has(client):
    created = await create(
        client, "a_B-9", allowNewGenerations=False, newGenerationsLimit=5.0, meta={"page": [1]}
    )
    assert (created["allowNewGenerations"], created["newGenerationsLimit"]) == (False, 5)
    assert created["meta"] == {"page": [1]}


async def test_a_taken_slug_is_409(client):
    await create(client)
    response = await client.post(SCOPES, json={"slug": "hero"})
    assert_failure(response, 409, "SCOPE_ALREADY_EXISTS")
    await create(client, "Hero")


async def test_of_many_that_create_one_scope_one_does(client):
    responses = await asyncio.gather(
        *(client.post(SCOPES, json={"slug": "hero"}) for _ in range(8))
    )
    assert sorted(each.status_code for each in responses) == [201] + [409] * 7


@pytest.mark.parametrize("slug", ["", " ", "a b", "héro", "a/b", "a.b", "@x", "x" * 101, "a\n"])
async def test_a_slug_of_other_characters_is_refused(client, slug):
    assert_failure(await client.post(SCOPES, json={"slug": slug}), 400, "SCOPE_INVALID_FORMAT")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "slug"),
        ({"slug": 7}, "slug"),
        ({"slug": "a", "newGenerationsLimit": 0}, "newGenerationsLimit"),
        ({"slug": "a", "newGenerationsLimit": 1.5}, "newGenerationsLimit"),
        ({"slug": "a", "newGenerationsLimit": "9"}, "newGenerationsLimit"),
        ({"slug": "a", "allowNewGenerations": "no"}, "allowNewGenerations"),
        ({"slug": "a", "meta": []}, "meta"),
        ({"slug": "a", "meta": {"x": "y" * 20_000}}, "meta"),
        ({"slug": "a", "limit": 3}, "limit"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_what_makes_no_scope_is_named(client, body, field):
    assert_failure(await client.post(SCOPES, json=body), 400, "VALIDATION_ERROR", field)


async def test_a_scope_is_changed_field_by_field(server, client):
    await create(client, meta={"a": 1}, newGenerationsLimit=7)
    server.clock.advance(seconds=1)
    for body, field, value in [
        ({"allowNewGenerations": False}, "allowNewGenerations", False),
        ({"newGenerationsLimit": 9}, "newGenerationsLimit", 9),
        ({"meta": {}}, "meta", {}),
        ({"meta": None}, "meta", {}),
        ({}, "newGenerationsLimit", 9),
    ]:
        response = await client.put(f"{SCOPES}/hero", json=body)
        assert response.status_code == 200, response.text
        assert response.json()["data"][field] == value
    now = await shown(client)
    assert now["updatedAt"] > now["createdAt"]
    wrong = await client.put(f"{SCOPES}/hero", json={"slug": "other"})
    assert_failure(wrong, 400, "VALIDATION_ERROR", "slug")


async def test_scopes_are_listed_newest_first_in_pages(server, client):
    for number in range(4):
        server.clock.advance(seconds=1)
        await create(client, f"scope-{number}")
    first = (await client.get(SCOPES, params={"limit": 3})).json()
    assert [scope["slug"] for scope in first["data"]] == ["scope-3", "scope-2", "scope-1"]
    assert first["pagination"] == {"limit": 3, "offset": 0, "total": 4, "hasMore": True}
    rest = (await client.get(SCOPES, params={"limit": 3, "offset": 3})).json()
    assert [scope["slug"] for scope in rest["data"]] == ["scope-0"]
    assert rest["pagination"]["hasMore"] is False
    found = (await client.get(SCOPES, params={"slug": "scope-2"})).json()
    assert [scope["slug"] for scope in found["data"]] == ["scope-2"]
    assert found["pagination"]["total"] == 1
    assert (await client.get(SCOPES, params={"slug": "none"})).json()["data"] == []


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "offset=-1", "page=2"])
async def test_a_wrong_page_is_refused(client, query):
    assert_failure(await client.get(f"{SCOPES}?{query}"), 400, "VALIDATION_ERROR")


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", ""), *ROUTES])
async def test_scopes_need_a_key(server, method, path):
    assert_failure(await server.visitor().request(method, SCOPES + path), 401, "UNAUTHORIZED")


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_another_projects_scope_does_not_exist(server, client, method, path):
    owner = server.client()
    before = await create(owner)
    body = {"json": {}} if method == "PUT" else {}
    response = await client.request(method, SCOPES + path, **body)
    assert_failure(response, 404, "SCOPE_NOT_FOUND")
    assert (await client.get(SCOPES)).json()["data"] == []
    assert await shown(owner) == before


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_scope_that_is_not_there_is_404(client, method, path):
    body = {"json": {}} if method == "PUT" else {}
    assert_failure(await client.request(method, SCOPES + path, **body), 404, "SCOPE_NOT_FOUND")


# --- Scopes and live URLs -------------------------------------------------------------------------


async def test_the_first_use_of_a_scope_makes_it(server, client, page):
    await page.painted("news")
    scope = await shown(client, "news")
    assert (scope["allowNewGenerations"], scope["currentGenerations"]) == (True, 1)
    record = await client.record((await page.get("news")).headers["x-generation-id"])
    assert scope["lastGeneratedAt"] == record["updatedAt"]


async def test_a_refused_request_makes_no_scope(client, page):
    response = await page.visitor.get(page.base + "news", params={"prompt": " "})
    assert response.status_code == 400
    assert (await client.get(SCOPES)).json()["data"] == []


async def test_a_project_may_forbid_new_scopes(server, client, page):
    await create(client, "known")
    await page.painted("known")
    server.services.projects.allow_new_scopes(client.project_id, allowed=False)
    assert_failure(await page.get("new"), 404, "SCOPE_NOT_FOUND")
    await page.painted("known", prompt="a hen")
    server.services.projects.allow_new_scopes(client.project_id, allowed=True)
    await page.painted("new")


async def test_a_scope_that_takes_no_new_images_serves_those_that_it_has(client, page):
    content = await page.painted()
    await client.put(f"{SCOPES}/hero", json={"allowNewGenerations": False})
    assert (await page.get()).content == content
    assert_failure(await page.get(prompt="a hen"), 403, "FORBIDDEN")


async def test_a_scope_has_its_own_limit(tmp_path):
    async with serving(tmp_path, live__wait=0) as server:
        client = server.client()
        page = Page(server, client)
        await create(client, newGenerationsLimit=2)
        statuses = [(await page.get(prompt=f"fox {number}")).status_code for number in range(3)]
        assert statuses == [503, 503, 429]
        await client.put(f"{SCOPES}/hero", json={"newGenerationsLimit": 3})
        assert (await page.get(prompt="fox 3")).status_code == 503


async def regenerate(client, scope="hero", body=None):
    response = await client.post(f"{SCOPES}/{scope}/regenerate", **({"json": body} if body else {}))
    assert response.status_code == 200, response.text
    return response.json()["data"]


async def test_one_image_of_a_scope_is_made_again_and_served_meanwhile(server, client, page):
    before = await page.painted()
    await page.painted(prompt="a hen")
    served = (await page.get()).headers
    image_id, generation_id = served["x-image-id"], served["x-generation-id"]
    again = await regenerate(client, body={"imageId": image_id.upper()})
    assert again == {
        "regenerated": 1,
        "images": [{"id": image_id, "generationId": generation_id}],
    }
    assert (await client.record(generation_id))["status"] == "pending"
    response = await page.get()
    assert (response.content, response.headers["x-cache-status"]) == (before, "HIT")
    after = server.worker.paint(generation_id)
    response = await page.get()
    assert (response.content, response.headers["x-image-id"]) == (after, image_id)
    assert response.headers["etag"] != served["etag"]


async def test_all_images_of_a_scope_are_made_again(server, client, page):
    for prompt in ("a hen", "an owl"):
        await page.painted(prompt=prompt)
    await page.painted("other")
    waiting = stranger(page, 8).start(prompt="not made yet")
    [new_id] = await page.waiting()
    again = await regenerate(client)
    assert again["regenerated"] == len(again["images"]) == 2
    pending = [row.prompt for row in server.generations_of(client) if row.status == "pending"]
    assert sorted(pending) == ["a hen", "an owl", "not made yet"]
    server.worker.paint(new_id)
    assert (await waiting).headers["x-cache-status"] == "MISS"


async def test_an_image_that_fails_to_be_made_again_stays(server, client, page):
    content = await page.painted()
    generation_id = (await page.get()).headers["x-generation-id"]
    await regenerate(client)
    server.worker.fail(generation_id, "Out of memory")
    assert (await page.get()).content == content


async def test_an_image_of_another_scope_is_not_made_again(client, page):
    await page.painted()
    await page.painted("other")
    image_id = (await page.get("other")).headers["x-image-id"]
    for unknown in (image_id, UNKNOWN_ID, "x"):
        response = await client.post(f"{SCOPES}/hero/regenerate", json={"imageId": unknown})
        assert_failure(response, 400, "IMAGE_NOT_IN_SCOPE")
    wrong = await client.post(f"{SCOPES}/hero/regenerate", json={"image": image_id})
    assert_failure(wrong, 400, "VALIDATION_ERROR", "image")


async def test_an_empty_scope_has_nothing_to_make_again(client):
    await create(client)
    assert await regenerate(client) == {"regenerated": 0, "images": []}


async def test_an_image_with_an_alias_outlives_its_scope(client, page):
    content = await page.painted()
    image_id = (await page.get()).headers["x-image-id"]
    named = await client.put(f"/api/v1/images/{image_id}/alias", json={"alias": "@fox"})
    assert named.status_code == 200, named.text
    await client.delete(f"{SCOPES}/hero")
    place = f"{page.project.organization_slug}/{page.project.slug}"
    assert (await page.visitor.get(f"/cdn/{place}/img/@fox")).content == content


async def test_a_scope_is_deleted_with_its_images(server, client, page):
    await page.painted()
    await page.painted(prompt="a hen")
    await page.painted("other")
    response = await client.delete(f"{SCOPES}/hero")
    assert response.json() == {"success": True, "message": "Scope deleted"}
    assert [row.original_prompt for row in server.generations_of(client)] == ["a red fox"]
    assert (await page.get("other")).headers["x-cache-status"] == "HIT"
    assert_failure(await client.delete(f"{SCOPES}/hero"), 404, "SCOPE_NOT_FOUND")
    await page.painted()


async def test_a_generation_of_a_deleted_scope_is_cancelled(server, client, page):
    asking = stranger(page, 7).start()
    [generation_id] = await page.waiting()
    await client.delete(f"{SCOPES}/hero")
    assert_failure(await asking, 404, "GENERATION_NOT_FOUND")
    response = await client.get(f"{GENERATIONS}/{generation_id}")
    assert_failure(response, 404, "GENERATION_NOT_FOUND")
    assert PROMPT["prompt"] not in str(server.generations_of(client))
