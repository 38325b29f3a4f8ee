from __future__ import annotations

import asyncio
import time

import pytest

from banatie.api import waiters
from banatie.api.routes import generations
from banatie.config import Config
from banatie.store.workers import WorkerState
from tests.support.api_server import GENERATIONS, PATIENCE, assert_failure, serving

pytestmark = pytest.mark.anyio

PROMPT = "A photorealistic close-up portrait of a cat, 85mm lens"


def submitting(client, prefer=None, **body):
    headers = {"Prefer": prefer} if prefer else {}
    json = {"prompt": "a cat", **body}
    return asyncio.create_task(client.post(GENERATIONS, json=json, headers=headers))


# The enhancement


def test_the_answer_waits_five_seconds_unless_configured_otherwise():
    assert Config().enhancement.response_wait == 5


async def test_the_201_carries_the_enhanced_prompt(patient):
    client = patient.client()
    post = submitting(client)
    generation_id = await patient.accepted(client)
    await patient.assert_still_waiting(generation_id, post)
    patient.worker.enhance(generation_id, PROMPT)
    response = await asyncio.wait_for(post, PATIENCE)
    assert response.status_code == 201
    data = response.json()["data"]
    assert data["id"] == generation_id
    assert data["prompt"] == PROMPT
    assert data["originalPrompt"] == "a cat"
    assert data["status"] == "pending"
    assert "preference-applied" not in response.headers


async def test_the_201_shows_the_record_as_it_stood_when_the_enhancement_was_in(patient):
    client = patient.client()
    post = submitting(client)
    generation_id = await patient.accepted(client)
    patient.clock.advance(milliseconds=900)
    patient.worker.enhance(generation_id, PROMPT)
    enhanced = await client.record(generation_id)
    patient.clock.advance(milliseconds=900)
    patient.worker.paint(generation_id)
    data = (await asyncio.wait_for(post, PATIENCE)).json()["data"]
    assert data == enhanced
    assert data["status"] == "pending"
    assert data["outputImageId"] is data["outputImage"] is data["processingTimeMs"] is None


async def test_painting_that_begins_at_once_is_not_shown(patient):
    client = patient.client()
    post = submitting(client)
    generation_id = await patient.accepted(client)
    # No await in between: whoever is woken finds the generation painted already.
    patient.worker.enhance(generation_id, PROMPT)
    patient.worker.begin(generation_id)
    patient.worker.step(generation_id, 2)
    patient.worker.succeed(generation_id)
    data = (await asyncio.wait_for(post, PATIENCE)).json()["data"]
    assert data["prompt"] == PROMPT
    assert data["status"] == "pending"
    assert data["enhancement"]["model"] == "tiny"
    assert data["outputImageId"] is data["outputImage"] is data["processingTimeMs"] is None
    assert data["progress"] is data["model"] is data["steps"] is None
    assert (await client.record(generation_id))["status"] == "success"


async def test_a_failed_enhancement_is_a_warning_and_the_original_prompt(patient):
    client = patient.client()
    post = submitting(client)
    generation_id = await patient.accepted(client)
    patient.worker.enhance(generation_id, "a cat", warning="The language model took too long")
    data = (await asyncio.wait_for(post, PATIENCE)).json()["data"]
    assert data["prompt"] == data["originalPrompt"] == "a cat"
    assert data["autoEnhance"] is True
    assert data["warnings"] == ["The language model took too long"]
    assert data["status"] == "pending"


async def test_after_the_response_wait_the_original_prompt_is_answered_and_changes_later(tmp_path):
    async with serving(tmp_path, enhancement__response_wait=0.2) as server:
        client = server.client()
        began = time.monotonic()
        data = (await submitting(client)).json()["data"]
        assert 0.2 <= time.monotonic() - began < PATIENCE
        assert data["prompt"] == data["originalPrompt"] == "a cat"
        assert data["status"] == "pending"
        server.worker.enhance(data["id"], PROMPT)
        assert (await client.record(data["id"]))["prompt"] == PROMPT


async def test_while_a_worker_loads_the_wait_begins_again(tmp_path):
    async with serving(tmp_path, enhancement__response_wait=0.2) as server:
        client = server.client()
        server.services.workers.report(WorkerState("w", 7, "starting"), server.clock())
        post = submitting(client)
        generation_id = await server.accepted(client)
        # Several times as long as without.
        done, _ = await asyncio.wait({post}, timeout=1.0)
        assert not done
        server.worker.enhance(generation_id, PROMPT)
        data = (await asyncio.wait_for(post, PATIENCE)).json()["data"]
        assert data["prompt"] == PROMPT


async def test_no_loading_is_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(generations, "LOADING_WAIT_SECONDS", 0.5)
    async with serving(tmp_path, enhancement__response_wait=0.2) as server:
        server.services.workers.report(WorkerState("w", 7, "starting"), server.clock())
        began = time.monotonic()
        data = (await submitting(server.client())).json()["data"]
        assert 0.5 <= time.monotonic() - began < PATIENCE
        assert data["prompt"] == data["originalPrompt"]


async def test_respond_async_waits_for_nothing(patient):
    client = patient.client()
    response = await asyncio.wait_for(submitting(client, "respond-async"), PATIENCE)
    assert response.status_code == 201
    assert response.headers["preference-applied"] == "respond-async"
    data = response.json()["data"]
    assert data["prompt"] == data["originalPrompt"] == "a cat"
    assert data["status"] == "pending"


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat sitting on a windowsill",
        "  leading and trailing  ",
        "two\nlines\r\nand\ttabs",
        "кот на подоконнике 🐈‍⬛ é é  ﬀ",
        'quotes " and \\ and </script>',
        "null\x00byte \x7f \u200b",
    ],
)
async def test_without_enhancement_the_prompt_stays_byte_for_byte(patient, prompt):
    client = patient.client()
    response = await asyncio.wait_for(
        submitting(client, prompt=prompt, autoEnhance=False), PATIENCE
    )
    data = response.json()["data"]
    assert data["prompt"] == data["originalPrompt"] == prompt
    assert data["autoEnhance"] is False
    assert data["enhancement"] is None
    # It waits for painting, not for the language model.
    patient.worker.paint(data["id"])
    record = await client.record(data["id"])
    assert record["prompt"] == record["originalPrompt"] == prompt
    assert record["warnings"] == []


async def test_a_generation_cancelled_while_it_is_enhanced_is_answered_at_once(patient):
    client = patient.client()
    post = submitting(client)
    generation_id = await patient.accepted(client)
    await client.post(f"{GENERATIONS}/{generation_id}/cancel")
    response = await asyncio.wait_for(post, PATIENCE)
    assert response.status_code == 201
    assert response.json()["data"]["id"] == generation_id


# The picture


async def test_wait_on_post_answers_with_the_picture(server, client, worker):
    post = submitting(client, "wait=10", autoEnhance=False)
    generation_id = await server.accepted(client)
    worker.begin(generation_id)
    await server.assert_still_waiting(generation_id, post)
    worker.succeed(generation_id)
    response = await asyncio.wait_for(post, PATIENCE)
    assert response.status_code == 201
    assert response.headers["preference-applied"] == "wait=10"
    assert response.json()["data"] == await client.record(generation_id)
    assert response.json()["data"]["status"] == "success"


async def test_wait_on_post_answers_500_with_the_record_of_a_failure(server, client, worker):
    post = submitting(client, "wait=10", autoEnhance=False)
    generation_id = await server.accepted(client)
    worker.fail(generation_id, "The device's memory did not suffice")
    response = await asyncio.wait_for(post, PATIENCE)
    error = assert_failure(response, 500, "GENERATION_FAILED")
    assert error["details"] == await client.record(generation_id)
    assert error["details"]["errorMessage"] == "The device's memory did not suffice"
    assert "The device's memory did not suffice" in error["message"]


async def test_a_failure_that_was_waited_for_says_that_it_was(server, client, worker):
    post = submitting(client, "wait=10", autoEnhance=False)
    worker.fail(await server.accepted(client), "no")
    response = await asyncio.wait_for(post, PATIENCE)
    assert response.headers.get("preference-applied") == "wait=10"


async def test_wait_on_get_answers_once_the_generation_has_ended(server, client, worker):
    created = await client.create(autoEnhance=False)
    get = asyncio.create_task(
        client.get(f"{GENERATIONS}/{created['id']}", headers={"Prefer": "wait=10"})
    )
    await server.wait_until_waiting(created["id"])
    worker.begin(created["id"])
    await server.assert_still_waiting(created["id"], get)
    worker.succeed(created["id"])
    response = await asyncio.wait_for(get, PATIENCE)
    assert response.headers["preference-applied"] == "wait=10"
    assert response.json()["data"]["status"] == "success"


async def test_wait_on_get_of_a_failure_answers_with_the_record(server, client, worker):
    created = await client.create(autoEnhance=False)
    get = asyncio.create_task(
        client.get(f"{GENERATIONS}/{created['id']}", headers={"Prefer": "wait=10"})
    )
    await server.wait_until_waiting(created["id"])
    worker.fail(created["id"], "no")
    response = await asyncio.wait_for(get, PATIENCE)
    assert response.status_code == 200
    assert response.json()["data"]["errorMessage"] == "no"


async def test_wait_on_get_of_what_has_ended_answers_at_once(client, worker):
    created = await client.create(autoEnhance=False)
    worker.paint(created["id"])
    get = client.get(f"{GENERATIONS}/{created['id']}", headers={"Prefer": "wait=100"})
    response = await asyncio.wait_for(get, PATIENCE)
    assert response.headers["preference-applied"] == "wait=100"
    assert response.json()["data"]["status"] == "success"


async def test_after_the_time_that_was_preferred_the_record_is_answered_as_it_is(server, worker):
    client = server.client()
    created = await client.create(autoEnhance=False)
    worker.begin(created["id"])
    began = time.monotonic()
    post, get = await asyncio.gather(
        submitting(client, "wait=1"),
        client.get(f"{GENERATIONS}/{created['id']}", headers={"Prefer": "wait=1"}),
    )
    assert 1 <= time.monotonic() - began < PATIENCE
    assert post.status_code == 201
    assert post.json()["data"]["status"] == "pending"
    assert get.status_code == 200
    assert get.json()["data"]["status"] == "processing"
    assert post.headers["preference-applied"] == get.headers["preference-applied"] == "wait=1"


async def test_no_seconds_at_all_are_a_preference_too(client):
    post = await submitting(client, "wait=0")
    assert post.status_code == 201
    assert post.headers.get("preference-applied") == "wait=0"
    url = f"{GENERATIONS}/{post.json()['data']['id']}"
    get = await client.get(url, headers={"Prefer": "wait=0"})
    assert get.headers.get("preference-applied") == "wait=0"


@pytest.mark.parametrize("seconds", ["120", "121", "600", "1000000000000"])
async def test_nobody_waits_for_longer_than_two_minutes(client, worker, seconds):
    created = await client.create(autoEnhance=False)
    worker.paint(created["id"])
    response = await client.get(
        f"{GENERATIONS}/{created['id']}", headers={"Prefer": f"wait={seconds}"}
    )
    assert response.headers["preference-applied"] == "wait=120"


@pytest.mark.parametrize(
    "prefer",
    ["", "wait", "wait=", "wait=soon", "wait=-1", "wait=1.5", "wait=1e2", "waiting=5", "=", ",;="],
)
async def test_a_malformed_preference_is_ignored(client, prefer):
    response = await asyncio.wait_for(submitting(client, prefer, autoEnhance=False), PATIENCE)
    assert response.status_code == 201
    assert "preference-applied" not in response.headers
    get = client.get(f"{GENERATIONS}/{response.json()['data']['id']}", headers={"Prefer": prefer})
    response = await asyncio.wait_for(get, PATIENCE)
    assert response.status_code == 200
    assert "preference-applied" not in response.headers


@pytest.mark.parametrize(
    "prefer",
    ["WAIT=7", 'wait="7"', "wait = 7", "foo=bar, wait=7", "wait=7; x=y", "wait=7, wait=9"],
)
async def test_a_preference_is_read_as_the_rfc_writes_it(client, worker, prefer):
    created = await client.create(autoEnhance=False)
    worker.paint(created["id"])
    response = await client.get(f"{GENERATIONS}/{created['id']}", headers={"Prefer": prefer})
    assert response.headers["preference-applied"] == "wait=7"


async def test_a_preference_may_stand_in_a_header_line_of_its_own(client, worker):
    created = await client.create(autoEnhance=False)
    worker.paint(created["id"])
    headers = [("Prefer", "foo=bar"), ("Prefer", "wait=7")]
    response = await client.get(f"{GENERATIONS}/{created['id']}", headers=headers)
    assert response.headers.get("preference-applied") == "wait=7"


async def test_respond_async_on_get_is_no_preference(client):
    created = await client.create()
    response = await client.get(
        f"{GENERATIONS}/{created['id']}", headers={"Prefer": "respond-async"}
    )
    assert "preference-applied" not in response.headers


async def test_what_is_deleted_while_it_is_waited_for_is_404(patient, monkeypatch):
    monkeypatch.setattr(waiters, "DELETED_CHECK_SECONDS", 0.05)
    client = patient.client()
    post = submitting(client)
    generation_id = await patient.accepted(client)
    get = asyncio.create_task(
        client.get(f"{GENERATIONS}/{generation_id}", headers={"Prefer": "wait=30"})
    )
    await patient.wait_until_waiting(generation_id, 2)
    await client.delete(f"{GENERATIONS}/{generation_id}")
    for response in await asyncio.wait_for(asyncio.gather(post, get), PATIENCE):
        assert_failure(response, 404, "GENERATION_NOT_FOUND")


async def test_many_wait_for_the_same_generation_and_none_is_left_behind(server, client, worker):
    created = await client.create(autoEnhance=False)
    url = f"{GENERATIONS}/{created['id']}"
    waiting = [
        asyncio.create_task(client.get(url, headers={"Prefer": "wait=30"})) for _ in range(20)
    ]
    await server.assert_still_waiting(created["id"], *waiting)
    worker.paint(created["id"])
    for response in await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE):
        assert response.json()["data"]["status"] == "success"
    assert not server.app.state.waiters.anyone()
