from __future__ import annotations

import asyncio

import pytest

from banatie.api import app
from tests.api.test_failures import UNKNOWN_ID
from tests.support.api_server import GENERATIONS, assert_failure, following, serving
from tests.support.polling import wait_until_async

pytestmark = pytest.mark.anyio

HOUR = 3600


def standing(response):
    return tuple(
        int(response.headers[f"x-ratelimit-{name}"]) for name in ("limit", "remaining", "reset")
    )


async def use_up(client):
    _, remaining, _ = standing(await client.get(GENERATIONS))
    for _ in range(remaining):
        response = await client.get(GENERATIONS)
        remaining = standing(response)[1]
    assert remaining == 0


async def test_a_key_has_a_hundred_requests_an_hour_unless_configured_otherwise(client):
    assert standing(await client.get(GENERATIONS)) == (100, 99, HOUR)
    assert standing(await client.get(GENERATIONS)) == (100, 98, HOUR)


async def test_the_configured_number_counts_and_one_more_is_429(tmp_path):
    async with serving(tmp_path, limits__requests_per_hour=2) as server:
        client = server.client()
        assert standing(await client.get(GENERATIONS)) == (2, 1, HOUR)
        server.clock.advance(seconds=100, milliseconds=1)
        assert standing(await client.get(GENERATIONS)) == (2, 0, HOUR - 100)
        response = await client.get(GENERATIONS)
        assert_failure(response, 429, "RATE_LIMIT_EXCEEDED")
        assert standing(response) == (2, 0, HOUR - 100)
        assert response.headers["retry-after"] == str(HOUR - 100)
        # Another key of the same server is not touched by it.
        assert (await server.client().get(GENERATIONS)).status_code == 200


async def test_the_window_ends_after_an_hour_and_not_before(server):
    client = server.client(requests_per_hour=1)
    await client.get(GENERATIONS)
    server.clock.advance(seconds=HOUR - 1, milliseconds=999)
    refused = await client.get(GENERATIONS)
    assert_failure(refused, 429, "RATE_LIMIT_EXCEEDED")
    assert refused.headers["retry-after"] == "1"
    server.clock.advance(milliseconds=1)
    assert standing(await client.get(GENERATIONS)) == (1, 0, HOUR)


async def test_refused_requests_do_not_prolong_the_window(server):
    client = server.client(requests_per_hour=1)
    for _ in range(4):
        await client.get(GENERATIONS)
        server.clock.advance(seconds=HOUR // 4)
    assert (await client.get(GENERATIONS)).status_code == 200


async def test_a_key_can_carry_its_own_number(server):
    client = server.client(requests_per_hour=3)
    assert standing(await client.get(GENERATIONS))[:2] == (3, 2)


async def test_zero_turns_the_limit_off(tmp_path):
    async with serving(tmp_path, limits__requests_per_hour=0) as server:
        client = server.client()
        for _ in range(5):
            assert (await client.get(GENERATIONS)).status_code == 200
        limited = server.client(requests_per_hour=1)
        assert standing(await limited.get(GENERATIONS))[:2] == (1, 0)


async def test_zero_for_one_key_turns_its_limit_off(server):
    client = server.client(requests_per_hour=0)
    for _ in range(3):
        assert (await client.get(GENERATIONS)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", GENERATIONS, 200),
        ("POST", GENERATIONS, 400),
        ("GET", GENERATIONS + "?limit=0", 400),
        ("GET", f"{GENERATIONS}/{UNKNOWN_ID}", 404),
        ("DELETE", f"{GENERATIONS}/{UNKNOWN_ID}", 404),
        ("GET", "/api/v1/nothing", 404),
        ("PUT", GENERATIONS, 405),
    ],
)
async def test_every_authenticated_answer_tells_where_the_key_stands(client, method, path, status):
    response = await client.request(method, path)
    assert response.status_code == status
    assert standing(response) == (100, 99, HOUR)


@pytest.mark.parametrize("stage", ["pending", "processing"])
async def test_polling_does_not_count(server, worker, stage):
    client = server.client(requests_per_hour=3)
    created = await client.create(autoEnhance=False)
    if stage == "processing":
        worker.begin(created["id"])
    for _ in range(5):
        response = await client.get(f"{GENERATIONS}/{created['id']}")
        assert response.json()["data"]["status"] == stage
        assert standing(response) == (3, 2, HOUR)


async def test_a_get_of_an_ended_generation_counts(client, worker):
    created = await client.create(autoEnhance=False)
    worker.paint(created["id"])
    before = standing(await client.get(GENERATIONS))
    after = standing(await client.get(f"{GENERATIONS}/{created['id']}"))
    assert after[1] == before[1] - 1


async def test_polling_is_never_refused(server):
    client = server.client(requests_per_hour=2)
    created = await client.create(autoEnhance=False)
    await use_up(client)
    for _ in range(3):
        response = await client.get(f"{GENERATIONS}/{created['id']}")
        assert response.status_code == 200
        assert standing(response) == (2, 0, HOUR)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", GENERATIONS),
        ("GET", GENERATIONS + "/"),
        ("POST", GENERATIONS),
        ("GET", f"{GENERATIONS}/{{ended}}"),
        ("GET", f"{GENERATIONS}/{{ended}}/events"),
        ("GET", f"{GENERATIONS}/{UNKNOWN_ID}"),
        ("GET", f"{GENERATIONS}/nothing"),
        ("GET", f"{GENERATIONS}/{{pending}}/nothing"),
        ("POST", f"{GENERATIONS}/{{pending}}/cancel"),
        ("DELETE", f"{GENERATIONS}/{{pending}}"),
    ],
)
async def test_everything_but_polling_is_refused_once_the_limit_is_used_up(
    server, worker, method, path
):
    client = server.client(requests_per_hour=3)
    ended = await client.create(autoEnhance=False)
    worker.paint(ended["id"])
    pending = await client.create()
    await use_up(client)
    url = path.format(ended=ended["id"], pending=pending["id"])
    body = {"json": {"prompt": "x"}} if (method, path) == ("POST", GENERATIONS) else {}
    response = await client.request(method, url, **body)
    assert_failure(response, 429, "RATE_LIMIT_EXCEEDED")
    assert int(response.headers["retry-after"]) == HOUR
    states = {row.id: row.status for row in server.generations_of(client)}
    assert states == {ended["id"]: "success", pending["id"]: "pending"}


async def test_a_poll_that_waits_holds_nothing_of_the_limit(server, worker):
    client = server.client(requests_per_hour=2)
    created = await client.create(autoEnhance=False)
    poll = asyncio.create_task(
        client.get(f"{GENERATIONS}/{created['id']}", headers={"Prefer": "wait=30"})
    )
    await server.wait_until_waiting(created["id"])
    response = await client.get(GENERATIONS)
    worker.paint(created["id"])
    await poll
    assert response.status_code == 200, response.text
    assert standing(response) == (2, 0, HOUR)


async def test_a_poll_that_waited_for_the_picture_gets_it_whatever_the_limit(server, worker):
    client = server.client(requests_per_hour=1)
    created = await client.create(autoEnhance=False)
    poll = asyncio.create_task(
        client.get(f"{GENERATIONS}/{created['id']}", headers={"Prefer": "wait=30"})
    )
    await server.wait_until_waiting(created["id"])
    worker.paint(created["id"])
    response = await poll
    assert response.status_code == 200, response.text
    assert response.json()["data"]["status"] == "success"


async def test_following_a_generation_that_has_not_ended_does_not_count(server, worker):
    client = server.client(requests_per_hour=1)
    created = await client.create(autoEnhance=False)
    async with following(server, client, created["id"]) as stream:
        worker.paint(created["id"])
        events = await stream.rest()
    assert events[-1].name == "success"


async def test_requests_without_a_key_use_up_nobodys_limit(server, client):
    for _ in range(3):
        await server.visitor().get(GENERATIONS)
        await client.get("/health")
        await client.get("/api/info")
    assert standing(await client.get(GENERATIONS)) == (100, 99, HOUR)


async def test_the_count_survives_a_restart(tmp_path):
    async with serving(tmp_path) as server:
        client = server.client()
        key, clock = client.key, server.clock
        await client.get(GENERATIONS)
        await client.get(GENERATIONS)
    clock.advance(seconds=60)
    async with serving(tmp_path, clock=clock) as server:
        assert standing(await server.client(key).get(GENERATIONS)) == (100, 97, HOUR - 60)


async def test_the_count_survives_a_write_that_failed(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(app, "SAVE_SECONDS", 0.05)
    async with serving(tmp_path) as server:
        client = server.client()
        key, clock = client.key, server.clock
        server.execute("ALTER TABLE request_counts RENAME TO elsewhere")
        await client.get(GENERATIONS)
        await wait_until_async(lambda: "request counts" in caplog.text, "the write to fail")
        server.execute("ALTER TABLE elsewhere RENAME TO request_counts")
    async with serving(tmp_path, clock=clock) as server:
        assert standing(await server.client(key).get(GENERATIONS))[:2] == (100, 98)
