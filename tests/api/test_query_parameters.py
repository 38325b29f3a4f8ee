"""Query parameters: an unknown or repeated one is an error, never ignored."""

from __future__ import annotations

import pytest

from tests.support.api_server import GENERATIONS, assert_failure

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("query", ["Soft=true", "sotf=true", "soft=true&force=1"])
async def test_a_misspelt_soft_deletes_nothing(client, worker, query):
    created = await client.create(autoEnhance=False)
    worker.paint(created["id"])
    response = await client.delete(f"{GENERATIONS}/{created['id']}?{query}")
    assert_failure(response, 400, "VALIDATION_ERROR", query.rpartition("&")[2].partition("=")[0])
    assert (await client.record(created["id"]))["status"] == "success"


async def test_a_repeated_soft_deletes_nothing(client):
    created = await client.create(autoEnhance=False)
    response = await client.delete(f"{GENERATIONS}/{created['id']}?soft=true&soft=false")
    assert_failure(response, 400, "VALIDATION_ERROR", "soft")
    assert (await client.record(created["id"]))["deletedAt"] is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("POST", ""),
        ("GET", "/{id}"),
        ("GET", "/{id}/events"),
        ("POST", "/{id}/cancel"),
        ("POST", "/{id}/restore"),
        ("DELETE", "/{id}"),
    ],
)
async def test_an_unknown_parameter_is_refused_on_every_route(client, method, path):
    created = await client.create()
    url = GENERATIONS + path.format(id=created["id"]) + "?foo=bar"
    body = {"json": {"prompt": "a cat"}} if (method, path) == ("POST", "") else {}
    assert_failure(await client.request(method, url, **body), 400, "VALIDATION_ERROR", "foo")
    assert (await client.record(created["id"]))["status"] == "pending"


@pytest.mark.parametrize(
    "query", ["limit=5&limit=6", "status=failed&status=success", "limit=&limit=1"]
)
async def test_a_repeated_parameter_of_the_list_is_refused(client, query):
    response = await client.get(f"{GENERATIONS}?{query}")
    assert_failure(response, 400, "VALIDATION_ERROR", query.partition("=")[0])


async def test_the_known_parameters_are_those_of_the_document(server, client):
    document = (await server.visitor().get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        if not path.startswith("/api/v1"):
            continue
        for method, operation in operations.items():
            names = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"]
            url = path.replace("{generation_id}", "0" * 8)
            for name in names:
                response = await client.request(method, f"{url}?{name}=1&{name}=1")
                error = assert_failure(response, 400, "VALIDATION_ERROR", name)
                assert "more than once" in error["message"]


async def test_pictures_and_probes_may_carry_what_their_callers_add(server, client, worker):
    created = await client.create(autoEnhance=False)
    worker.paint(created["id"])
    url = (await client.record(created["id"]))["outputImage"]["storageUrl"]
    assert (await server.visitor().get(f"{url}?t=123")).status_code == 200
    assert (await server.visitor().get("/health?probe=1")).status_code == 503
