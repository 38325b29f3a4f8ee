from __future__ import annotations

import asyncio
import threading

import pytest

from banatie.store import change_watcher
from banatie.store.database import Database
from banatie.store.keys import Keys
from tests.api.test_failures import ROUTES, UNKNOWN_ID
from tests.support.api_server import GENERATIONS, PATIENCE, assert_failure, serving
from tests.support.polling import wait_until_async

pytestmark = pytest.mark.anyio

AT_ONCE_SECONDS = 2
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


async def test_a_key_revoked_by_another_process_is_refused_at_once(server):
    client = server.client(requests_per_hour=0)
    assert (await client.get(GENERATIONS)).status_code == 200
    elsewhere = Database(server.data / "banatie.db")
    key_id = server.services.keys.authenticate(client.key).id
    Keys(elsewhere).revoke(key_id, server.clock())
    elsewhere.close()
    await wait_until_async(lambda: refused(client), "the key to be refused", AT_ONCE_SECONDS)


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


async def test_a_momentary_failure_of_the_database_does_not_keep_revoked_keys_alive(
    tmp_path, caplog
):
    def failed():
        return any(record.name == change_watcher.__name__ for record in caplog.records)

    async with serving(tmp_path) as server:
        client = server.client(requests_per_hour=0)
        assert (await client.get(GENERATIONS)).status_code == 200
        server.execute("ALTER TABLE revisions RENAME TO elsewhere")
        await wait_until_async(failed, "the database to fail")
        server.execute("ALTER TABLE elsewhere RENAME TO revisions")
        key_id = server.services.keys.authenticate(client.key).id
        server.services.keys.revoke(key_id, server.clock())
        await wait_until_async(lambda: refused(client), "the key to be refused", PATIENCE)


async def test_a_key_revoked_while_it_is_looked_up_is_not_remembered(tmp_path, monkeypatch):
    reading, proceed, read, change_seen = (threading.Event() for _ in range(4))
    loop = asyncio.get_running_loop()
    call_soon_threadsafe = loop.call_soon_threadsafe
    async with serving(tmp_path) as server:
        keys, forget = server.services.keys, server.app.state.authentication.forget
        authenticate = keys.authenticate

        def observed_call(callback, *arguments, **options):
            handle = call_soon_threadsafe(callback, *arguments, **options)
            if callback == forget:
                change_seen.set()
            return handle

        def observed_authenticate(text):
            reading.set()
            assert proceed.wait(PATIENCE)
            key = authenticate(text)
            read.set()
            return key

        monkeypatch.setattr(loop, "call_soon_threadsafe", observed_call)
        client = server.client()
        await wait_until_async(change_seen.is_set, "the new key to be noticed")
        change_seen.clear()
        key_id = authenticate(client.key).id
        monkeypatch.setattr(keys, "authenticate", observed_authenticate)
        asking = asyncio.create_task(client.get(GENERATIONS))
        await wait_until_async(reading.is_set, "the key to be looked up")
        # A busy event loop: the key is read, then revoked, and the loop learns of both afterwards.
        proceed.set()
        assert read.wait(PATIENCE)
        keys.revoke(key_id, server.clock())
        assert change_seen.wait(PATIENCE)
        await asking
        assert_failure(await client.get(GENERATIONS), 401, "UNAUTHORIZED")


async def refused(client):
    """Whether the client's key is refused."""
    return (await client.get(GENERATIONS)).status_code == 401
