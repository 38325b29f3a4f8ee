"""The OpenAI Images API without a worker: keys and errors. Its clients are in tests/clients."""

from __future__ import annotations

import asyncio
import gc

import pytest

from banatie.api.dialects.openai.jobs import ClientGone, Jobs
from banatie.errors import GenerationFailed
from tests.support.api_server import serving
from tests.support.polling import wait_until_async

GENERATIONS = "/v1/images/generations"

pytestmark = pytest.mark.anyio


def assert_failure(response, status: int, code: str, parameter: str | None = None) -> dict:
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, parameter)
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    return error


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer bnt_unknown"},
        {"Authorization": "Basic Zm94OmZveA=="},
    ],
)
async def test_without_a_valid_key_it_is_401(server, headers):
    response = await server.visitor().get("/v1/models", headers=headers)
    assert_failure(response, 401, "invalid_api_key")


@pytest.mark.parametrize(("header", "prefix"), [("Authorization", "bearer "), ("X-API-Key", "")])
async def test_both_places_of_a_key_are_read(server, header, prefix):
    headers = {header: prefix + server.new_key()}
    response = await server.visitor().get("/v1/models", headers=headers)
    assert response.json() == {
        "object": "list",
        "data": [
            {
                "id": "banatie-small",
                "object": "model",
                "created": response.json()["data"][0]["created"],
                "owned_by": "banatie",
            }
        ],
    }


async def test_every_failure_has_the_shape_of_openai(client):
    assert_failure(await client.get("/v1/chat/completions"), 404, "not_found")
    assert_failure(await client.get("/v1/models/gpt-image-1"), 404, "not_found")
    assert_failure(await client.get(GENERATIONS), 405, "method_not_allowed")
    assert_failure(await client.get("/v1/models?limit=3"), 400, "invalid_value", "limit")
    assert_failure(await client.post(GENERATIONS, content=b"{"), 415, "unsupported_media_type")
    json = {"Content-Type": "application/json"}
    broken = await client.post(GENERATIONS, content=b"{", headers=json)
    assert_failure(broken, 400, "invalid_value")
    missing = await client.post(GENERATIONS, json={"n": 1})
    assert_failure(missing, 400, "missing_required_parameter", "prompt")
    edit = await client.post("/v1/images/edits", json={"prompt": "a cat"})
    assert_failure(edit, 415, "unsupported_media_type")


async def test_a_used_up_limit_is_429_in_the_shape_of_openai(server):
    client = server.client(requests_per_hour=1)
    assert (await client.get("/v1/models")).status_code == 200
    response = await client.get("/v1/models")
    assert response.status_code == 429
    assert response.headers["retry-after"]
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")


@pytest.mark.parametrize(
    ("files", "fields", "parameter"),
    [
        # A form without files would be sent in another media type.
        ([("prompt", (None, b"a cat"))], {}, "image"),
        ([("image", ("a.png", b"no picture"))], {"prompt": "a cat"}, "image"),
        ([("image[]", ("a.png", b"x"))] * 4, {"prompt": "a cat"}, "image"),
        ([("image", ("a.png", b"x"))], {"prompt": "a cat", "n": "many"}, "n"),
        ([("image", ("a.png", b"x")), ("more", ("b.png", b"x"))], {"prompt": "a cat"}, "more"),
    ],
)
async def test_a_form_that_is_wrong_is_refused_by_name(client, files, fields, parameter):
    response = await client.post("/v1/images/edits", files=files, data=fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == parameter


async def test_when_a_request_has_no_room_in_the_queue_none_of_its_pictures_is_made(tmp_path):
    async with serving(tmp_path, limits__queue_size=2) as small:
        client = small.client()
        response = await client.post(GENERATIONS, json={"prompt": "a cat", "n": 3})
        assert_failure(response, 503, "queue_full")
        rows = small.generations_of(client)
        assert [row.error_message for row in rows] == ["Cancelled"] * 2


async def test_a_picture_of_the_series_that_fails_ends_the_request(server, client, worker):
    body = {"prompt": "a cat", "n": 2, "autoEnhance": False}
    asked = asyncio.create_task(client.post(GENERATIONS, json=body))
    await wait_until_async(lambda: len(server.generations_of(client)) == 2, "two generations")
    failing, other = server.generations_of(client)
    worker.fail(failing.id, "it cannot be painted")
    response = await asked
    error = assert_failure(response, 500, "generation_failed")
    assert error["message"] == "it cannot be painted"
    assert response.headers["x-should-retry"] == "false"
    await wait_until_async(
        lambda: server.services.generations.find(other.id).is_ended, "the other to end"
    )
    assert (await client.record(other.id))["errorMessage"] == "Cancelled"


async def test_work_that_fails_while_it_is_cancelled_leaves_no_error_behind(server):
    jobs = Jobs(server.app.state, "project", "request")
    unseen = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))

    async def work():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise GenerationFailed("Cancelled", None) from None

    async def receive():
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGone):
        await jobs.while_connected(receive, work())
    # The task runs to its end, and what nobody holds any more is collected.
    for _ in range(3):
        await asyncio.sleep(0)
        gc.collect()
    assert unseen == []
