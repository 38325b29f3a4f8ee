"""Administration: master keys, and the first key of a new server."""

from __future__ import annotations

import asyncio
import re
import uuid

import pytest

from banatie.api.schemas import timestamp
from tests.api.test_failures import UNKNOWN_ID
from tests.api.test_keys import refused
from tests.support.api_server import GENERATIONS, PATIENCE, assert_failure, serving
from tests.support.polling import wait_until_async

pytestmark = pytest.mark.anyio

KEYS = "/api/admin/keys"
BOOTSTRAP = "/api/bootstrap/initial-key"
DAY = 86_400_000
ROUTES = [("GET", ""), ("POST", ""), ("DELETE", f"/{UNKNOWN_ID}")]


@pytest.fixture
def master(server):
    """A client with a master key."""
    return server.client(type="master")


async def create(master, **body):
    response = await master.post(KEYS, json={"type": "project", **body})
    assert response.status_code == 201, response.text
    return response.json()["data"]


async def all_keys(master):
    """All keys of the server, which other tests have filled."""
    keys, has_more = [], True
    while has_more:
        page = (await master.get(KEYS, params={"limit": 100, "offset": len(keys)})).json()
        keys += page["data"]
        has_more = page["pagination"]["hasMore"]
    return keys


@pytest.mark.parametrize(("method", "route"), ROUTES)
async def test_administration_asks_for_a_key(server, method, route):
    response = await server.visitor().request(method, KEYS + route)
    assert_failure(response, 401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    ("method", "path"),
    [*((method, KEYS + route) for method, route in ROUTES), ("GET", "/api/admin"), ("PUT", KEYS)],
)
async def test_a_project_key_administers_nothing(client, method, path):
    response = await client.request(method, path)
    error = assert_failure(response, 403, "FORBIDDEN")
    assert "banatie keys create --name NAME --type master" in error["message"]
    assert int(response.headers["x-ratelimit-remaining"]) < 100


async def test_a_new_key_is_shown_once_and_works_in_its_project(server, master):
    slug = f"site-{uuid.uuid4().hex}"
    created = await create(master, organizationSlug="acme", projectSlug=slug, name="Shop")
    assert re.fullmatch(r"bnt_[A-Za-z0-9_-]+", created["apiKey"])
    assert created["apiKey"].startswith(created["hint"])
    assert (created["type"], created["name"]) == ("project", "Shop")
    assert (created["organizationSlug"], created["projectSlug"]) == ("acme", slug)
    assert created["isActive"] is True
    one = server.client(created["apiKey"])
    assert one.project_id == created["projectId"]
    made = await one.create()
    assert made["projectId"] == created["projectId"]
    [entry] = [key for key in await all_keys(master) if key["id"] == created["id"]]
    assert created["apiKey"] not in str(entry)
    stored = server.worker.database.query("SELECT * FROM keys WHERE id = ?", (created["id"],))
    assert created["apiKey"] not in str([tuple(row) for row in stored])


async def test_a_second_key_of_a_project_joins_it(server, master):
    slug = f"site-{uuid.uuid4().hex}"
    first = await create(master, projectSlug=slug)
    second = await create(master, projectSlug=slug, name="another")
    by_id = await create(master, projectId=first["projectId"].upper())
    assert first["projectId"] == second["projectId"] == by_id["projectId"]
    assert first["organizationSlug"] == "default"
    with_both = await create(master, organizationId=first["organizationId"], projectSlug=slug)
    assert with_both["projectId"] == first["projectId"]


async def test_a_project_key_expires_after_ninety_days_and_a_master_key_never(tmp_path):
    async with serving(tmp_path) as server:
        master = server.client(type="master")
        default, chosen, other = [
            await create(master, **body)
            for body in ({}, {"expiresInDays": 2}, {"type": "master", "name": "Second"})
        ]
        assert other["expiresAt"] is None
        guest, second = server.client(chosen["apiKey"]), server.client(other["apiKey"])
        server.clock.advance(milliseconds=2 * DAY - 1)
        assert (await guest.get(GENERATIONS)).status_code == 200
        server.clock.advance(milliseconds=1)
        assert_failure(await guest.get(GENERATIONS), 401, "UNAUTHORIZED")
        usual = server.client(default["apiKey"])
        server.clock.advance(milliseconds=88 * DAY - 1)
        assert (await usual.get(GENERATIONS)).status_code == 200
        server.clock.advance(milliseconds=1)
        assert_failure(await usual.get(GENERATIONS), 401, "UNAUTHORIZED")
        listed = (await second.get(KEYS)).json()["data"]
        assert {key["id"] for key in listed if not key["isActive"]} == {
            default["id"],
            chosen["id"],
        }


async def test_a_key_has_its_own_rate_limit(server, master):
    created = await create(master, requestsPerHour=3.0)
    response = await server.client(created["apiKey"]).get(GENERATIONS)
    assert response.headers["x-ratelimit-limit"] == "3"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "type"),
        ({"type": "root"}, "type"),
        ({"type": "project", "name": " "}, "name"),
        ({"type": "project", "organizationSlug": "A b"}, "organization"),
        ({"type": "project", "projectSlug": ""}, "project"),
        ({"type": "project", "projectSlug": "../x"}, "project"),
        ({"type": "project", "expiresInDays": 0}, "expiresInDays"),
        ({"type": "project", "expiresInDays": 1.5}, "expiresInDays"),
        ({"type": "project", "expiresInDays": "9"}, "expiresInDays"),
        ({"type": "master", "expiresInDays": 9}, "expiresInDays"),
        ({"type": "project", "requestsPerHour": -1}, "requestsPerHour"),
        ({"type": "project", "projectId": UNKNOWN_ID}, "projectId"),
        ({"type": "project", "organizationId": UNKNOWN_ID}, "organizationId"),
        ({"type": "project", "projectId": UNKNOWN_ID, "projectSlug": "x"}, "projectId"),
        ({"type": "project", "organizationId": "x", "organizationSlug": "x"}, "organizationId"),
        ({"type": "project", "scopes": []}, "scopes"),
    ],
    ids=str,
)
async def test_what_makes_no_key_is_named(master, body, field):
    assert_failure(await master.post(KEYS, json=body), 400, "VALIDATION_ERROR", field)


async def test_a_project_of_another_organization_is_not_taken(master):
    created = await create(master, organizationSlug="acme", projectSlug="one")
    body = {"type": "project", "organizationSlug": "umbrella", "projectId": created["projectId"]}
    response = await master.post(KEYS, json=body)
    assert_failure(response, 400, "VALIDATION_ERROR", "projectId")


async def test_a_revoked_key_is_refused_and_stays_listed(server, master):
    created = await create(master)
    guest = server.client(created["apiKey"])
    assert (await guest.get(GENERATIONS)).status_code == 200
    response = await master.delete(f"{KEYS}/{created['id']}")
    assert response.json() == {"success": True, "message": "Key revoked"}
    again = await master.delete(f"{KEYS}/{created['id']}")
    assert_failure(again, 404, "NOT_FOUND")
    await wait_until_async(lambda: refused(guest), "the key to be refused", PATIENCE)
    [entry] = [key for key in await all_keys(master) if key["id"] == created["id"]]
    assert entry["revokedAt"] is not None
    assert entry["isActive"] is False


@pytest.mark.parametrize("key_id", [UNKNOWN_ID, "x", "bnt_"])
async def test_a_key_that_is_not_there_is_404(master, key_id):
    assert_failure(await master.delete(f"{KEYS}/{key_id}"), 404, "NOT_FOUND")


async def test_keys_are_listed_in_pages(tmp_path):
    async with serving(tmp_path) as server:
        master = server.client(type="master")
        ids = [(await create(master))["id"] for _ in range(3)]
        page = (await master.get(KEYS, params={"limit": 2, "offset": 1})).json()
        assert page["pagination"] == {"limit": 2, "offset": 1, "total": 4, "hasMore": True}
        rest = (await master.get(KEYS, params={"limit": 2, "offset": 3})).json()
        assert rest["pagination"]["hasMore"] is False
        first = (await master.get(KEYS, params={"limit": 1})).json()
        listed = [key["id"] for each in (first, page, rest) for key in each["data"]]
        assert set(ids) < set(listed)
        assert len(set(listed)) == 4


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "offset=-1", "type=master"])
async def test_a_wrong_page_is_refused(master, query):
    assert_failure(await master.get(f"{KEYS}?{query}"), 400, "VALIDATION_ERROR")


async def test_a_master_key_sees_no_project_but_its_own(server, client, master):
    created = await client.create()
    response = await master.get(f"{GENERATIONS}/{created['id']}")
    assert_failure(response, 404, "GENERATION_NOT_FOUND")


async def test_info_says_what_the_key_may(server, client, master):
    [mine, all_mighty] = [(await each.get("/api/info")).json()["data"] for each in (client, master)]
    assert (mine["key"]["type"], all_mighty["key"]["type"]) == ("project", "master")
    expiring = server.client(expires_at=server.clock() + DAY)
    told = (await expiring.get("/api/info")).json()["data"]["key"]
    assert (told["expiresAt"], mine["key"]["expiresAt"]) == (timestamp(server.clock() + DAY), None)


# --- The first key --------------------------------------------------------------------------------

HERE = {"Host": "localhost:3000"}


async def test_the_first_key_is_a_master_key_and_made_once(tmp_path):
    async with serving(tmp_path) as server:
        response = await server.visitor().post(BOOTSTRAP, headers=HERE)
        assert response.status_code == 201, response.text
        created = response.json()["data"]
        assert (created["type"], created["expiresAt"]) == ("master", None)
        master = server.client(created["apiKey"])
        assert (await master.get(KEYS)).status_code == 200
        again = await server.visitor().post(BOOTSTRAP, headers=HERE)
        assert_failure(again, 403, "FORBIDDEN")
        # Nor when it has been revoked.
        await master.delete(f"{KEYS}/{created['id']}")
        assert_failure(await server.visitor().post(BOOTSTRAP, headers=HERE), 403, "FORBIDDEN")


async def test_of_many_that_ask_for_the_first_key_one_gets_it(tmp_path):
    async with serving(tmp_path) as server:
        visitors = [server.visitor() for _ in range(8)]
        responses = await asyncio.gather(
            *(visitor.post(BOOTSTRAP, headers=HERE) for visitor in visitors)
        )
        assert sorted(each.status_code for each in responses) == [201] + [403] * 7
        assert len(server.services.keys.all()) == 1


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        ("192.168.1.7", HERE),
        ("::ffff:10.0.0.1", HERE),
        ("", HERE),
        ("127.0.0.1", {"Host": "pictures.example.org"}),
        ("127.0.0.1", {"Host": "localhost.example.org"}),
        ("127.0.0.1", {"Host": ""}),
        ("127.0.0.1", {**HERE, "Origin": "http://localhost:3000"}),
        ("127.0.0.1", {**HERE, "X-Forwarded-For": "127.0.0.1"}),
        ("127.0.0.1", {**HERE, "Forwarded": "for=127.0.0.1"}),
    ],
    ids=str,
)
async def test_the_first_key_is_not_for_others(tmp_path, address, headers):
    async with serving(tmp_path, server__trusted_proxies="127.0.0.1") as server:
        response = await server.visitor(address).post(BOOTSTRAP, headers=headers)
        assert_failure(response, 403, "FORBIDDEN")
        assert server.services.keys.is_empty()


@pytest.mark.parametrize(
    ("address", "host"),
    [("127.0.0.1", "127.0.0.1:3000"), ("::1", "[::1]:3000"), ("::ffff:127.0.0.1", "localhost")],
)
async def test_the_first_key_is_for_every_name_of_this_machine(tmp_path, address, host):
    async with serving(tmp_path) as server:
        response = await server.visitor(address).post(BOOTSTRAP, headers={"Host": host})
        assert response.status_code == 201
