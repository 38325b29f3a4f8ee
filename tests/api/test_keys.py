from __future__ import annotations

import asyncio
import time

import pytest

from banatie.store.database import Database
from banatie.store.keys import Keys
from tests.api.test_failures import ROUTES, UNKNOWN_ID
from tests.support.api_server import GENERATIONS, assert_failure, serving

pytestmark = pytest.mark.anyio

ALL_ROUTES = [("GET", ""), ("POST", ""), *ROUTES]


@pytest.mark.parametrize(("method", "route"), ALL_ROUTES)
async def test_every_route_asks_for_a_key(server, method, route):
    response = await server.visitor().request(method, GENERATIONS + route.format(id=UNKNOWN_ID))
    assert_failure(response, 401, "UNAUTHORIZED")
    assert "x-ratelimit-limit" not in response.headers


@pytest.mark.parametrize(
    "text", ["", " ", "bnt_unknown", "Bearer x", "x" * 5000, b"\xff\xfe", "bnt_" + "A" * 43]
)
async def test_an_unknown_key_is_401(server, text):
    response = await server.visitor().get(GENERATIONS, headers={"X-API-Key": text})
    assert_failure(response, 401, "UNAUTHORIZED")


async def test_a_key_counts_whatever_its_headers_case(server):
    key = server.new_key()
    response = await server.visitor().get(GENERATIONS, headers={"x-api-KEY": key})
    assert response.status_code == 200


async def test_a_key_in_the_url_does_not_count(server):
    response = await server.visitor().get(GENERATIONS, params={"X-API-Key": server.new_key()})
    assert_failure(response, 401, "UNAUTHORIZED")


async def test_a_key_revoked_by_another_process_is_refused_at_once(server, client):
    assert (await client.get(GENERATIONS)).status_code == 200
    elsewhere = Database(server.data / "banatie.db")
    key_id = server.services.keys.authenticate(client.key).id
    Keys(elsewhere).revoke(key_id, server.clock())
    elsewhere.close()
    await asyncio.sleep(0.25)
    assert_failure(await client.get(GENERATIONS), 401, "UNAUTHORIZED")


async def test_a_key_is_refused_from_the_moment_it_expires(server):
    client = server.client(expires_at=server.clock() + 60_000)
    server.clock.advance(milliseconds=59_999)
    assert (await client.get(GENERATIONS)).status_code == 200
    server.clock.advance(milliseconds=1)
    assert_failure(await client.get(GENERATIONS), 401, "UNAUTHORIZED")


async def test_a_key_made_while_the_server_runs_counts(server):
    assert (await server.client().get(GENERATIONS)).status_code == 200


async def test_two_keys_of_one_project_see_the_same(server):
    one, other = server.client(project="shared"), server.client(project="shared")
    created = await one.create()
    assert await other.record(created["id"]) == created
    assert one.project_id == other.project_id


@pytest.mark.parametrize(("method", "route"), ROUTES)
async def test_another_projects_generation_does_not_exist(server, client, worker, method, route):
    owner = server.client()
    generation_id = (await owner.create(autoEnhance=False))["id"]
    worker.paint(generation_id)
    before = await owner.record(generation_id)
    response = await client.request(method, GENERATIONS + route.format(id=generation_id))
    error = assert_failure(response, 404, "GENERATION_NOT_FOUND")
    unknown = await client.request(method, GENERATIONS + route.format(id=UNKNOWN_ID))
    assert error["message"].replace(generation_id, UNKNOWN_ID) == unknown.json()["error"]["message"]
    assert await owner.record(generation_id) == before


async def test_another_projects_generations_are_not_listed(server, client):
    await server.client().create()
    page = await client.listed(includeDeleted="true")
    assert page["data"] == []
    assert page["pagination"]["total"] == 0


async def test_a_momentary_failure_of_the_database_does_not_keep_revoked_keys_alive(tmp_path):
    async with serving(tmp_path) as server:
        client = server.client()
        assert (await client.get(GENERATIONS)).status_code == 200
        server.execute("ALTER TABLE revisions RENAME TO elsewhere")
        await asyncio.sleep(0.05)
        server.execute("ALTER TABLE elsewhere RENAME TO revisions")
        key_id = server.services.keys.authenticate(client.key).id
        server.services.keys.revoke(key_id, server.clock())
        await asyncio.sleep(0.25)
        assert_failure(await client.get(GENERATIONS), 401, "UNAUTHORIZED")


async def test_a_key_revoked_while_it_is_looked_up_is_not_remembered(server, client):
    asking = asyncio.create_task(client.get(GENERATIONS))
    await asyncio.sleep(0)
    # A busy event loop: the key is read, then revoked, and both are heard of only afterwards.
    time.sleep(0.05)  # noqa: ASYNC251
    server.services.keys.revoke(server.services.keys.authenticate(client.key).id, server.clock())
    time.sleep(0.05)  # noqa: ASYNC251
    await asking
    await asyncio.sleep(0.1)
    assert_failure(await client.get(GENERATIONS), 401, "UNAUTHORIZED")
