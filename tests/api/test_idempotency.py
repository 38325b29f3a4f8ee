from __future__ import annotations

import asyncio

import pytest

from tests.support.api_server import GENERATIONS, PATIENCE, assert_failure

pytestmark = pytest.mark.anyio


def send(client, key="order-7", prefer=None, **body):
    headers = {"Idempotency-Key": key} | ({"Prefer": prefer} if prefer else {})
    return client.post(GENERATIONS, json={"prompt": "a red fox", **body}, headers=headers)


async def test_the_same_request_again_gets_the_same_answer(server, client, worker):
    first = await send(client)
    assert first.status_code == 201
    worker.enhance(first.json()["data"]["id"], "an enhanced fox")
    worker.paint(first.json()["data"]["id"])
    again = await send(client)
    assert again.status_code == 201
    assert again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]
    assert len(server.generations_of(client)) == 1


async def test_the_same_body_may_be_written_differently(server, client):
    first = await send(client)
    body = b'{ "autoEnhance": true,\n "prompt": "a red fox" }'
    headers = {"Idempotency-Key": "order-7", "Content-Type": "application/json"}
    again = await client.post(GENERATIONS, content=body, headers=headers)
    assert again.content == first.content
    assert len(server.generations_of(client)) == 1


@pytest.mark.parametrize(
    "other", [{"prompt": "a blue fox"}, {"seed": 1}, {"meta": {"a": 1}}, {"autoEnhance": False}]
)
async def test_another_body_under_the_same_key_is_refused(server, client, other):
    await send(client)
    assert_failure(await send(client, **other), 400, "VALIDATION_ERROR", "Idempotency-Key")
    assert len(server.generations_of(client)) == 1


async def test_another_key_makes_another_generation(server, client):
    first, second = await send(client, "one"), await send(client, "two")
    assert first.json()["data"]["id"] != second.json()["data"]["id"]
    assert len(server.generations_of(client)) == 2


async def test_the_idempotency_keys_of_two_api_keys_are_not_the_same(server, client):
    other = server.client()
    first, second = await send(client), await send(other, prompt="something else")
    assert first.status_code == second.status_code == 201
    assert first.json()["data"]["id"] != second.json()["data"]["id"]


async def test_without_the_header_every_request_counts(server, client):
    await client.create()
    await client.create()
    assert len(server.generations_of(client)) == 2


async def test_two_at_once_make_one_generation_and_get_one_answer(patient):
    client = patient.client()
    both = asyncio.gather(send(client), send(client))
    generation_id = await patient.accepted(client)
    await patient.wait_until_waiting(generation_id, 2)
    patient.worker.enhance(generation_id, "an enhanced fox")
    first, second = await asyncio.wait_for(both, PATIENCE)
    assert first.status_code == second.status_code == 201
    assert first.content == second.content
    assert first.json()["data"]["prompt"] == "an enhanced fox"
    assert len(patient.generations_of(client)) == 1
    assert (await send(client)).content == first.content


async def test_two_that_overlap_get_one_answer_even_if_they_wait_differently(patient):
    client = patient.client()
    slow = asyncio.create_task(send(client))
    generation_id = await patient.accepted(client)
    quick = await send(client, prefer="respond-async")
    patient.worker.enhance(generation_id, "an enhanced fox")
    assert (await asyncio.wait_for(slow, PATIENCE)).content == quick.content
    assert (await send(client)).content == quick.content


async def test_the_answer_outlives_the_generation(server, client):
    first = await send(client)
    await client.delete(f"{GENERATIONS}/{first.json()['data']['id']}")
    again = await send(client)
    assert again.status_code == 201
    assert again.content == first.content
    assert server.generations_of(client) == []


async def test_after_24_hours_the_key_is_new_again(server, client):
    first = await send(client)
    server.clock.advance(seconds=24 * 3600 - 1)
    assert (await send(client)).content == first.content
    server.clock.advance(seconds=1, milliseconds=1)
    later = await send(client)
    assert later.status_code == 201
    assert later.json()["data"]["id"] != first.json()["data"]["id"]
    assert (await send(client)).content == later.content
    # And with another body, too.
    server.clock.advance(hours=25)
    assert (await send(client, seed=1)).status_code == 201


async def test_a_request_that_was_refused_does_not_use_up_its_key(server, client):
    assert_failure(await send(client, steps=0), 400, "VALIDATION_ERROR", "steps")
    assert_failure(await send(client, prompt=" "), 400, "VALIDATION_ERROR", "prompt")
    assert (await send(client)).status_code == 201


async def test_a_waited_for_failure_is_answered_again(server, client, worker):
    post = asyncio.create_task(send(client, prefer="wait=10", autoEnhance=False))
    worker.fail(await server.accepted(client), "no paint left")
    first = await asyncio.wait_for(post, PATIENCE)
    again = await send(client, prefer="wait=10", autoEnhance=False)
    assert first.status_code == again.status_code == 500
    assert again.content == first.content
    assert len(server.generations_of(client)) == 1


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_an_unusable_key_is_refused(server, client, key):
    assert_failure(await send(client, key), 400, "VALIDATION_ERROR", "Idempotency-Key")
    assert server.generations_of(client) == []
