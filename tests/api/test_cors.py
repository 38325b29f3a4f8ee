"""Pages of other origins, and the headers that tell browsers what to keep from them."""

from __future__ import annotations

import pytest

from tests.support.api_server import GENERATIONS, assert_failure, serving

pytestmark = pytest.mark.anyio

OURS = "https://app.example.org"
FOREIGN = [
    "https://evil.example.org",
    "https://app.example.org.evil.org",
    "http://app.example.org",
    "https://app.example.org:8443",
    "https://xapp.example.org",
    "null",
    "",
]


def preflight(origin, method="POST", headers="content-type,x-api-key"):
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


@pytest.fixture
async def open_server(tmp_path):
    async with serving(tmp_path, server__cors_origins=OURS) as running:
        yield running


def names_of(response):
    return {name for name in response.headers if name.startswith("access-control")}


@pytest.mark.parametrize("origin", [OURS, *FOREIGN])
async def test_no_origin_is_let_in_unless_it_is_listed(server, client, origin):
    for response in (
        await server.visitor().options(GENERATIONS, headers=preflight(origin)),
        await client.get(GENERATIONS, headers={"Origin": origin}),
        await client.get("/health", headers={"Origin": origin}),
    ):
        assert names_of(response) == set()


async def test_a_listed_origin_asks_without_a_key_and_reads_the_answers(open_server):
    visitor, client = open_server.visitor(), open_server.client()
    asked = await visitor.options(GENERATIONS, headers=preflight(OURS))
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == OURS
    allowed = {name.strip() for name in asked.headers["access-control-allow-methods"].split(",")}
    assert {"GET", "POST", "DELETE"} <= allowed
    headers = asked.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
    wanted = {"x-api-key", "content-type", "prefer", "idempotency-key", "last-event-id"}
    assert wanted <= set(headers)
    assert "x-request-id" in asked.headers
    for response in (
        await client.post(GENERATIONS, json={"prompt": "a cat"}, headers={"Origin": OURS}),
        await visitor.get(GENERATIONS, headers={"Origin": OURS}),
        await visitor.get("/nothing", headers={"Origin": OURS}),
        await visitor.get("/storage/nothing", headers={"Origin": OURS}),
    ):
        assert response.headers["access-control-allow-origin"] == OURS
        assert response.headers["vary"] == "Origin"
        exposed = response.headers["access-control-expose-headers"]
        assert {"Retry-After", "X-Request-Id", "X-RateLimit-Remaining"} <= {*exposed.split(", ")}
        assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("origin", FOREIGN)
async def test_any_other_origin_reads_nothing(open_server, origin):
    visitor, client = open_server.visitor(), open_server.client()
    for response in (
        await visitor.options(GENERATIONS, headers=preflight(origin)),
        await client.get(GENERATIONS, headers={"Origin": origin}),
    ):
        assert "access-control-allow-origin" not in response.headers
        assert response.headers["vary"] == "Origin"


async def test_a_preflight_does_nothing_and_counts_nothing(open_server):
    client = open_server.client()
    created = await client.create()
    url = f"{GENERATIONS}/{created['id']}"
    for _ in range(3):
        assert (await client.options(url, headers=preflight(OURS, "DELETE"))).status_code == 204
    response = await client.get(GENERATIONS)
    assert response.json()["data"] == [created]
    assert response.headers["x-ratelimit-remaining"] == "98"


async def test_a_star_lets_every_origin_in(tmp_path):
    async with serving(tmp_path, server__cors_origins="*") as server:
        response = await server.client().get(GENERATIONS, headers={"Origin": FOREIGN[0]})
        assert response.headers["access-control-allow-origin"] == FOREIGN[0]
        assert "access-control-allow-credentials" not in response.headers


async def test_options_without_an_origin_names_the_methods(client):
    response = await client.options(GENERATIONS)
    assert response.status_code == 204
    assert set(response.headers["allow"].split(", ")) == {"GET", "POST", "OPTIONS"}
    response = await client.options(f"{GENERATIONS}/x")
    assert set(response.headers["allow"].split(", ")) == {"DELETE", "GET", "PUT", "OPTIONS"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", GENERATIONS),
        ("POST", GENERATIONS),
        ("PUT", GENERATIONS),
        ("GET", "/health"),
        ("GET", "/api/info"),
        ("GET", "/openapi.json"),
        ("GET", "/nothing"),
        ("GET", "/storage/nothing"),
    ],
)
@pytest.mark.parametrize("key", [True, False])
async def test_answers_are_neither_run_nor_framed_nor_kept(server, client, method, path, key):
    response = await (client if key else server.visitor()).request(method, path)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    policy = response.headers["content-security-policy"]
    assert policy == "default-src 'none'; frame-ancestors 'none'"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert response.headers["cache-control"] == "no-store"


async def test_the_page_may_run_its_own_and_is_framed_by_nobody(server):
    response = await server.visitor().get("/docs")
    policy = response.headers["content-security-policy"].split("; ")
    assert "default-src 'self'" in policy
    assert {"frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} <= set(policy)
    assert response.headers.get_list("content-security-policy") == ["; ".join(policy)]
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_picture_may_be_shown_elsewhere_and_can_run_nothing(server, client, worker):
    created = await client.create(autoEnhance=False)
    worker.paint(created["id"])
    image = (await client.record(created["id"]))["outputImage"]
    response = await server.visitor().get(image["storageUrl"])
    assert response.headers["cross-origin-resource-policy"] == "cross-origin"
    assert response.headers["content-security-policy"] == "default-src 'none'"
    assert response.headers.get_list("cache-control") == ["no-cache"]
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_wrong_host_gets_no_url_made_of_it(client):
    for host in ('evil"><script>', "a b", "a\\b", "a/b"):
        response = await client.get(GENERATIONS, headers={"Host": host})
        error = assert_failure(response, 400, "VALIDATION_ERROR")
        assert host not in error["message"]
