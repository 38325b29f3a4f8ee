"""HTTP as clients and proxies send it: HEAD, Host, encodings, byte order marks, broken files."""

from __future__ import annotations

import errno
import gzip
import os

import pytest

from banatie.api import waiters
from tests.support.api_server import ADDRESS, GENERATIONS, assert_failure, following

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
UUID = "00000000-0000-4000-8000-000000000001"


@pytest.mark.parametrize("path", ["", "/{id}", "/health", "/api/info", "/docs", "/openapi.json"])
async def test_head_says_what_get_would(client, path):
    created = await client.create()
    url = path if path.startswith(("/h", "/a", "/d", "/o")) else GENERATIONS + path
    url = url.format(id=created["id"])
    get, head = await client.get(url), await client.head(url)
    assert (head.status_code, head.content) == (get.status_code, b"")
    for name in ("content-type", "content-length", "cache-control"):
        assert head.headers[name] == get.headers[name]
    assert head.headers["x-request-id"]


async def test_head_of_the_events_ends_at_once(client):
    created = await client.create()
    head = await client.head(f"{GENERATIONS}/{created['id']}/events")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")


async def test_head_of_what_is_not_there_is_the_failure_without_its_body(client):
    head = await client.head(f"{GENERATIONS}/nothing")
    assert (head.status_code, head.content) == (404, b"")


async def test_the_allowed_methods_name_head_beside_get(client):
    response = await client.put(GENERATIONS)
    assert {"GET", "HEAD", "POST"} <= set(response.headers["allow"].split(", "))


@pytest.mark.parametrize(
    "host",
    ["user@evil.test", "user:password@banatie.test", "evil.test/x", "evil.test?x", "a b"],
)
async def test_a_host_that_is_none_is_refused(client, host):
    response = await client.get(GENERATIONS, headers={"Host": host})
    assert_failure(response, 400, "VALIDATION_ERROR", "Host")


async def test_two_hosts_are_refused(client):
    headers = [("Host", "banatie.test"), ("Host", "evil.test"), ("X-API-Key", client.key)]
    request = client.build_request("GET", ADDRESS + GENERATIONS)
    request.headers = type(request.headers)(headers)
    assert_failure(await client.send(request), 400, "VALIDATION_ERROR", "Host")


@pytest.mark.parametrize(
    "host", ["banatie.test", "banatie.test:3000", "127.0.0.1:3000", "[::1]:3000", "my_box.local"]
)
async def test_other_hosts_are_where_the_storage_url_begins(client, worker, host):
    created = await client.create(autoEnhance=False)
    worker.paint(created["id"])
    response = await client.get(f"{GENERATIONS}/{created['id']}", headers={"Host": host})
    url = response.json()["data"]["outputImage"]["storageUrl"]
    assert url.startswith(f"http://{host}/storage/")


async def test_a_compressed_body_is_415(client):
    body = gzip.compress(b'{"prompt": "a cat"}')
    response = await client.post(
        GENERATIONS, content=body, headers={**JSON, "Content-Encoding": "gzip"}
    )
    error = assert_failure(response, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert "Content-Encoding" in error["message"]


async def test_identity_is_no_encoding(client):
    response = await client.post(
        GENERATIONS, content=b'{"prompt": "a"}', headers={**JSON, "Content-Encoding": "identity"}
    )
    assert response.status_code == 201


async def test_a_byte_order_mark_before_json_is_read_over(client):
    body = b"\xef\xbb\xbf" + b'{"prompt": "a cat"}'
    response = await client.post(GENERATIONS, content=body, headers=JSON)
    assert response.json()["data"]["originalPrompt"] == "a cat"


@pytest.mark.parametrize(
    "path",
    [
        f"{'a' * 300}/{UUID}/generated/{UUID}.png",
        f"{'a' * 64}/{UUID}/generated/{UUID}.png",
        f"default/{UUID}/generated/{UUID}.png/x",
    ],
)
async def test_a_name_that_no_file_can_have_is_404(server, path):
    assert_failure(await server.visitor().get(f"/storage/{path}"), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        (errno.ENOTDIR, 404, "NOT_FOUND"),
        (errno.ENAMETOOLONG, 404, "NOT_FOUND"),
        (errno.EACCES, 503, "SERVICE_UNAVAILABLE"),
        (errno.EIO, 503, "SERVICE_UNAVAILABLE"),
        (errno.EMFILE, 503, "SERVICE_UNAVAILABLE"),
    ],
)
async def test_a_disk_that_refuses_a_file_is_answered_in_the_shape(
    server, monkeypatch, number, status, code
):
    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number), "/srv/banatie/data/secret")

    # A root user may read everything, so that the kernel cannot be made to refuse.
    monkeypatch.setattr("banatie.api.file_response.os.open", refuse)
    response = await server.visitor().get(f"/storage/default/{UUID}/generated/{UUID}.png")
    assert_failure(response, status, code)
    assert "secret" not in response.text


async def test_a_file_that_is_a_folder_is_404(server):
    folder = server.data / "storage" / "default" / UUID / "generated" / f"{UUID}.png"
    folder.mkdir(parents=True)
    response = await server.visitor().get(f"/storage/default/{UUID}/generated/{UUID}.png")
    assert_failure(response, 404, "NOT_FOUND")


async def test_whatever_fails_below_the_middleware_has_the_shape(server, monkeypatch):
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("in /srv/banatie/secret.py")

    monkeypatch.setattr("banatie.api.routes.images.send_file", fail)
    folder = server.data / "storage" / "default" / UUID / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{UUID[:-1]}2.png").write_bytes(b"x")
    response = await server.visitor().get(f"/storage/default/{UUID}/generated/{UUID[:-1]}2.png")
    assert_failure(response, 500, "INTERNAL_ERROR")
    assert response.headers["x-content-type-options"] == "nosniff"
    metrics = (await server.visitor().get("/metrics")).text
    assert 'route="/storage/{storage_key}",status="500"' in metrics


async def test_the_events_of_a_revoked_key_end(server, monkeypatch):
    monkeypatch.setattr(waiters, "DELETED_CHECK_SECONDS", 0.05)
    client = server.client()
    created = await client.create()
    async with following(server, client, created["id"]) as stream:
        await stream.next()
        [key] = [k for k in server.services.keys.all() if k.project.id == client.project_id]
        server.services.keys.revoke(key.id, server.clock())
        assert await stream.rest() == []
