from __future__ import annotations

import logging

import pytest

from tests.support.api_server import GENERATIONS, assert_failure, serving

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
UNKNOWN_ID = "550e8400-e29b-41d4-a716-446655440000"
ROUTES = [
    ("GET", "/{id}"),
    ("GET", "/{id}/events"),
    ("POST", "/{id}/cancel"),
    ("POST", "/{id}/restore"),
    ("DELETE", "/{id}"),
    ("DELETE", "/{id}?soft=true"),
]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"prompt": ',
        b"{'prompt': 'a'}",
        b'{"prompt": "a"} {}',
        b'{"prompt": "a",}',
        b'{"prompt": NaN}',
        b"prompt=a",
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "\\ud83d"}',
        b'{"prompt": "x", "meta": {"n": 1e400}}',
        b'{"prompt": "x", "meta": {"n": ' + b"[" * 5000 + b"]" * 5000 + b"}}",
        b"[" * 200_000,
    ],
    ids=lambda body: repr(body[:34]),
)
async def test_malformed_json_is_the_clients_mistake(refused, body):
    response = await refused.post(GENERATIONS, content=body, headers=JSON)
    assert_failure(response, 400, "VALIDATION_ERROR")


@pytest.mark.parametrize("path", ["/nothing", "/api", "/api/v2/generations", "/docs/x.js"])
async def test_an_unknown_route_is_404(refused, path):
    assert_failure(await refused.get(path), 404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["/api/v1", "/api/v1/pictures", f"{GENERATIONS}/a/b/c"])
async def test_an_unknown_route_of_the_api_is_404_and_for_those_with_a_key_only(
    server, refused, path
):
    assert_failure(await refused.get(path), 404, "NOT_FOUND")
    assert_failure(await server.visitor().get(path), 401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    "path", ["//api/v1/generations", "/api//v1/generations", "/api/v1//generations", "/api/./v1"]
)
async def test_a_path_with_slashes_too_many_leads_past_no_key(server, client, path):
    url = f"http://banatie.test:3000{path}"
    visitor = await server.visitor().get(url)
    assert visitor.status_code in (401, 404), visitor.text
    assert visitor.json()["success"] is False
    response = await client.get(url)
    assert response.status_code in (200, 404), response.text


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", GENERATIONS, {"GET", "POST"}),
        ("DELETE", GENERATIONS, {"GET", "POST"}),
        ("POST", f"{GENERATIONS}/{UNKNOWN_ID}", {"GET", "PUT", "DELETE"}),
        ("GET", f"{GENERATIONS}/{UNKNOWN_ID}/cancel", {"POST"}),
        ("DELETE", f"{GENERATIONS}/{UNKNOWN_ID}/events", {"GET"}),
        ("POST", "/health", {"GET"}),
        ("PATCH", "/api/info", {"GET"}),
    ],
)
async def test_a_wrong_method_is_405_and_told_the_right_ones(refused, method, path, allowed):
    response = await refused.request(method, path)
    assert_failure(response, 405, "METHOD_NOT_ALLOWED")
    listed = {name.strip() for name in response.headers["allow"].split(",")}
    assert listed - {"OPTIONS", "HEAD"} == allowed


async def test_a_body_too_large_is_413(client):
    body = b'{"prompt": "' + b"x" * 1_048_576 + b'"}'
    response = await client.post(GENERATIONS, content=body, headers=JSON)
    assert_failure(response, 413, "PAYLOAD_TOO_LARGE")


async def test_a_body_too_large_is_413_also_when_it_does_not_say_so(client):
    async def chunks():
        for _ in range(20):
            yield b" " * 65_536

    response = await client.post(GENERATIONS, content=chunks(), headers=JSON)
    assert_failure(response, 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize(
    "media_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml"],
)
async def test_another_content_type_is_415(refused, media_type):
    body = b'{"prompt": "a red fox"}'
    response = await refused.post(GENERATIONS, content=body, headers={"Content-Type": media_type})
    assert_failure(response, 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_no_content_type_is_415(refused):
    response = await refused.post(GENERATIONS, content=b'{"prompt": "a red fox"}')
    assert_failure(response, 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", "Application/JSON", "application/json "]
)
async def test_json_may_be_declared_in_every_way_that_http_knows(client, media_type):
    body = b'{"prompt": "a red fox"}'
    response = await client.post(GENERATIONS, content=body, headers={"Content-Type": media_type})
    assert response.status_code == 201


@pytest.mark.parametrize(("method", "route"), ROUTES)
async def test_an_unknown_generation_is_404(refused, method, route):
    response = await refused.request(method, GENERATIONS + route.format(id=UNKNOWN_ID))
    error = assert_failure(response, 404, "GENERATION_NOT_FOUND")
    assert UNKNOWN_ID in error["message"]


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "123",
        "events",
        "550e8400e29b41d4a716446655440000",
        "{550e8400-e29b-41d4-a716-446655440000}",
        "urn:uuid:550e8400-e29b-41d4-a716-446655440000",
        "550e8400-e29b-41d4-a716-44665544000g",
        "550e8400-e29b-41d4-a716-4466554400001",
        "%00",
        "%FF",
        "%0A",
        "..%5C",
        "'%20OR%201=1",
        "x" * 3000,
    ],
    ids=lambda text: text[:45],
)
@pytest.mark.parametrize(("method", "route"), ROUTES[:3])
async def test_an_id_that_is_no_uuid_is_answered_like_an_unknown_one(refused, method, route, text):
    response = await refused.request(method, GENERATIONS + route.format(id=text))
    assert_failure(response, 404, "GENERATION_NOT_FOUND")


async def test_a_full_queue_is_503_with_a_time_to_come_back(tmp_path):
    async with serving(tmp_path, limits__queue_size=2) as server:
        client = server.client()
        first = await client.create()
        await client.create()
        response = await client.post(
            GENERATIONS, json={"prompt": "x"}, headers={"Idempotency-Key": "again"}
        )
        assert_failure(response, 503, "QUEUE_FULL")
        assert int(response.headers["retry-after"]) >= 1
        assert len(server.generations_of(client)) == 2
        # One that was refused has used up nothing, neither its place nor its key.
        await client.post(f"{GENERATIONS}/{first['id']}/cancel")
        response = await client.post(
            GENERATIONS, json={"prompt": "x"}, headers={"Idempotency-Key": "again"}
        )
        assert response.status_code == 201


async def test_what_was_not_foreseen_is_500_without_insides_and_logged_under_its_id(
    tmp_path, caplog
):
    async with serving(tmp_path) as server:
        client = server.client()
        server.execute("DROP TABLE generation_counts")
        with caplog.at_level(logging.ERROR):
            response = await client.get(GENERATIONS)
        assert_failure(response, 500, "INTERNAL_ERROR")
        assert "generation_counts" not in response.text
        (record,) = [r for r in caplog.records if r.name == "banatie.api.errors"]
        assert response.headers["x-request-id"] in record.getMessage()
        assert record.exc_info is not None
        assert "no such table: generation_counts" in caplog.text


async def test_a_database_that_has_lost_its_keys_is_500_in_the_same_shape(tmp_path, caplog):
    async with serving(tmp_path) as server:
        client = server.client()
        server.execute("ALTER TABLE keys RENAME TO elsewhere")
        try:
            response = await client.get(GENERATIONS)
        finally:
            server.execute("ALTER TABLE elsewhere RENAME TO keys")
        assert_failure(response, 500, "INTERNAL_ERROR")
        assert response.headers["x-request-id"] in caplog.text
