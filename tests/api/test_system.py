from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path
from urllib.parse import urljoin

import pytest

import banatie
from banatie.api.schemas import timestamp
from banatie.store.workers import WorkerState
from tests.support.api_server import assert_failure, serving

pytestmark = pytest.mark.anyio

READY = WorkerState(
    id="w",
    pid=1,
    state="ready",
    device="cpu",
    language_model="tiny-language",
    painting_model="tiny-painter",
    plan="the painting model on the device, the language model beside it",
)
REMOTE = re.compile(r"""(?:src|href|action)=(?!"docs/|"data:)|@import|url\((?!"?data:)""")


@pytest.fixture
def workers(server):
    """The workers' rows, none of them there at the beginning."""
    server.services.workers.forget_dead(lambda _: False)
    return server.services.workers


def assert_unavailable(response, worker):
    assert response.status_code == 503
    body = response.json()
    assert set(body) == {"success", "error", "data"}
    assert body["success"] is False
    assert body["error"]["code"] == "SERVICE_UNAVAILABLE"
    assert body["error"]["message"]
    assert body["data"]["worker"] == worker
    assert set(body["data"]) >= {"status", "version", "uptime"}
    return body


async def test_health_is_200_while_a_worker_is_ready(server, workers):
    workers.report(READY, server.clock())
    response = await server.visitor().get("/health")
    assert response.status_code == 200
    assert set(response.json()) == {"success", "data"}
    data = response.json()["data"]
    assert data["status"] == "ok"
    assert data["version"] == banatie.__version__
    assert data["uptime"] >= 0
    assert data["timestamp"] == timestamp(server.clock())
    assert data["models"] == {"enhancement": "tiny-language", "painting": "tiny-painter"}
    assert data["device"] == "cpu"
    assert data["workers"] == [
        {
            "device": "cpu",
            "state": "ready",
            "reason": None,
            "models": data["models"],
            "memory": READY.plan,
        }
    ]
    assert "x-ratelimit-limit" not in response.headers


async def test_health_is_503_without_a_worker(server, workers):
    assert_unavailable(await server.visitor().get("/health"), "gone")


async def test_health_is_503_while_the_models_are_loaded(server, workers):
    workers.report(WorkerState("w", 1, "starting"), server.clock())
    body = assert_unavailable(await server.visitor().get("/health"), "starting")
    assert body["data"]["status"] == "starting"


async def test_health_is_503_and_says_why_when_the_worker_is_broken(server, workers):
    workers.report(WorkerState("w", 1, "broken", "The model is not there"), server.clock())
    body = assert_unavailable(await server.visitor().get("/health"), "broken")
    assert body["error"]["message"] == "The model is not there"


async def test_health_is_200_while_one_of_several_workers_is_ready(server, workers):
    workers.report(WorkerState("a", 1, "broken", "No memory", "cuda:0"), server.clock())
    workers.report(WorkerState("b", 2, "starting", device="cuda:1"), server.clock())
    body = assert_unavailable(await server.visitor().get("/health"), "starting")
    assert [worker["state"] for worker in body["data"]["workers"]] == ["broken", "starting"]
    ready = WorkerState("c", 3, "ready", device="cuda:2", painting_model="p")
    workers.report(ready, server.clock())
    workers.report(
        WorkerState("d", 4, "ready", device="cuda:3", painting_model="p", language_model="l"),
        server.clock(),
    )
    response = await server.visitor().get("/health")
    assert response.status_code == 200
    data = response.json()["data"]
    assert (data["status"], data["worker"], data["device"]) == ("ok", "ready", "cuda:2")
    assert data["models"] == {"enhancement": "l", "painting": "p"}
    told = (await server.visitor().get("/api/info")).json()["data"]
    assert told["models"] == data["models"]
    assert told["workers"] == data["workers"]
    assert [(w["device"], w["state"], w["reason"]) for w in data["workers"]] == [
        ("cuda:2", "ready", None),
        ("cuda:3", "ready", None),
        ("cuda:0", "broken", "No memory"),
        ("cuda:1", "starting", None),
    ]
    assert data["workers"][0]["models"] == {"enhancement": None, "painting": "p"}


async def test_health_is_503_once_the_worker_has_fallen_silent(server, workers):
    workers.report(READY, server.clock())
    server.clock.advance(seconds=14)
    assert (await server.visitor().get("/health")).status_code == 200
    server.clock.advance(seconds=2)
    assert_unavailable(await server.visitor().get("/health"), "gone")


async def test_health_is_503_when_the_database_is_gone(tmp_path):
    async with serving(tmp_path) as server:
        server.services.workers.report(READY, server.clock())
        server.execute("DROP TABLE workers")
        response = await server.visitor().get("/health")
    assert response.status_code == 503, response.text
    assert response.json()["error"]["code"] == "SERVICE_UNAVAILABLE"
    assert "table" not in response.text


async def test_info_tells_what_the_server_can_do(server, workers):
    workers.report(READY, server.clock())
    response = await server.visitor().get("/api/info")
    assert response.status_code == 200
    data = response.json()["data"]
    assert (data["name"], data["version"]) == ("Banatie", banatie.__version__)
    assert data["aspectRatios"] == ["1:1", "16:9", "9:16", "3:2", "21:9"]
    assert data["loras"] == []
    assert data["templates"] == [
        "general",
        "photorealistic",
        "illustration",
        "minimalist",
        "sticker",
        "product",
        "comic",
    ]
    assert data["limits"] == {
        "requestsPerHour": 100,
        "queueSize": 1000,
        "promptCharacters": 4000,
        "metaBytes": 16384,
        "maxFileSize": 5 * 1024 * 1024,
        "maxFiles": 3,
        "supportedFormats": ["image/png", "image/jpeg", "image/webp"],
    }
    assert data["models"] == {"enhancement": "tiny-language", "painting": "tiny-painter"}
    assert data["key"] is None


async def test_info_tells_about_the_key_that_is_sent_and_does_not_count(server):
    client = server.client(project="the-project", requests_per_hour=7)
    await client.get("/api/v1/generations")
    for _ in range(2):
        data = (await client.get("/api/info")).json()["data"]
        assert data["key"] == {
            "type": "project",
            "name": "test",
            "organization": "default",
            "project": "the-project",
            "projectId": client.project_id,
            "requestsPerHour": 7,
            "requestsRemaining": 6,
            "expiresAt": None,
        }
    assert client.key not in (await client.get("/api/info")).text


async def test_info_refuses_a_key_that_does_not_count(server):
    response = await server.visitor().get("/api/info", headers={"X-API-Key": "bnt_unknown"})
    assert_failure(response, 401, "UNAUTHORIZED")


async def test_the_documentation_page_loads_nothing_from_elsewhere(server):
    visitor = server.visitor()
    page = await visitor.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "http" not in policy
    assert "http" not in page.text
    assert not REMOTE.search(page.text)
    parts = re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text)
    assert len(parts) == 3
    for part in parts:
        response = await visitor.get(part)
        assert response.status_code == 200
        assert len(response.content) > 100
        assert response.headers["content-type"].startswith(("text/javascript", "text/css"))
        if part.endswith(".css"):
            assert not REMOTE.search(response.text)
        if part.endswith("start.js"):
            assert "http" not in response.text
            assert '"../openapi.json"' in response.text


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
async def test_the_documentation_page_works_below_a_path_of_a_proxy(server, path):
    """Its links are relative, so that a browser resolves them below the proxy's path."""
    visitor = server.visitor()
    page = await visitor.get(path)
    seen_by_the_browser = f"https://example.org/banatie{path}"
    for part in re.findall(r'(?:src|href)="((?!data:)[^"]+)"', page.text):
        resolved = urljoin(seen_by_the_browser, part)
        assert resolved.startswith("https://example.org/banatie/docs/")
        assert (await visitor.get(resolved.partition("/banatie")[2])).status_code == 200
    document = (await visitor.get("/openapi.json")).json()
    [server_entry] = document["servers"]
    base = urljoin("https://example.org/banatie/openapi.json", server_entry["url"])
    assert base == "https://example.org/banatie/"


def test_all_of_the_documentation_page_is_packaged():
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["*"]
    left_out = [
        file.name
        for file in resources.files("banatie.api").joinpath("docs").iterdir()
        if not any(fnmatch(file.name, pattern) for pattern in patterns)
    ]
    assert left_out == []
