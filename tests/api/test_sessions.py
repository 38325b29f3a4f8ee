"""Sessions: signing in and out from a browser, their rights, and requests that other pages make."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from banatie.store.sessions import SESSION_MILLISECONDS, TOKEN_MILLISECONDS
from tests.support.api_server import (
    ADDRESS,
    GENERATIONS,
    Client,
    Server,
    assert_failure,
    following,
    serving,
)
from tests.support.polling import wait_until_async

pytestmark = pytest.mark.anyio

SESSIONS = "/api/v1/sessions"
OWN_PAGE = {"Origin": ADDRESS}
BROWSER = "Mozilla/5.0 (a test)"


async def sign_in(server: Server, **body: str) -> Client:
    """A browser that has signed in, by default as the owner."""
    browser = server.visitor()
    browser.headers["User-Agent"] = BROWSER
    body = body or {"token": server.services.sessions.create_token(server.clock())}
    response = await browser.post(SESSIONS, json=body, headers=OWN_PAGE)
    assert response.status_code == 201, response.text
    browser.project_id = server.services.keys.default_project_id(0)
    return browser


async def listed(browser: Client) -> list[dict[str, Any]]:
    response = await browser.get(SESSIONS)
    assert response.status_code == 200, response.text
    return response.json()["data"]


async def test_a_token_signs_the_owner_in_once(server):
    token = server.services.sessions.create_token(server.clock())
    browser = await sign_in(server, token=token)
    assert (await browser.get(GENERATIONS)).status_code == 200
    assert (await browser.get("/api/admin/keys")).status_code == 200
    [own] = [each for each in await listed(browser) if each["isCurrent"]]
    assert (own["name"], own["keyType"]) == (BROWSER, "master")
    assert (own["organizationSlug"], own["projectSlug"]) == ("default", "default")
    assert_failure(
        await server.visitor().post(SESSIONS, json={"token": token}), 401, "UNAUTHORIZED"
    )


async def test_the_cookie_is_for_the_server_alone_and_not_for_scripts(server):
    token = server.services.sessions.create_token(server.clock())
    response = await server.visitor().post(SESSIONS, json={"token": token}, headers=OWN_PAGE)
    attributes = response.headers["Set-Cookie"].split("; ")
    assert attributes[1:] == ["Path=/", "Max-Age=7776000", "HttpOnly", "SameSite=Strict"]


@pytest.mark.parametrize(
    ("public_url", "origin", "expected"),
    [
        ("https://example.org/pictures/", "https://example.org", ("/pictures/", True)),
        ("https://example.org:443", "https://example.org", ("/", True)),
        ("http://example.org:8080/a", "http://example.org:8080", ("/a/", False)),
        ("https://example.org/pictures", "http://banatie.test:3000", ("/", False)),
        ("", "https://banatie.test:3000", ("/", True)),
    ],
)
async def test_the_cookie_is_that_of_the_address_in_the_browser(
    tmp_path, public_url, origin, expected
):
    async with serving(tmp_path, server__public_url=public_url) as server:
        token = server.services.sessions.create_token(server.clock())
        response = await server.visitor().post(
            SESSIONS, json={"token": token}, headers={"Origin": origin}
        )
        cookie = response.headers["Set-Cookie"]
        path = re.search(r"Path=([^;]*)", cookie)[1]
        assert (path, cookie.endswith("; Secure")) == expected


async def test_a_key_signs_in_with_its_own_rights(server):
    client = server.client()
    theirs = await client.create()
    browser = await sign_in(server, apiKey=client.key)
    assert [each["id"] for each in (await browser.listed())["data"]] == [theirs["id"]]
    assert_failure(await browser.get("/api/admin/keys"), 403, "FORBIDDEN")
    assert [each["isCurrent"] for each in await listed(browser)] == [True]
    other = await sign_in(server, apiKey=server.new_key())
    assert await listed(other) != await listed(browser)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "VALIDATION_ERROR"),
        ({"token": "a", "apiKey": "b"}, 400, "VALIDATION_ERROR"),
        ({"password": "a"}, 400, "VALIDATION_ERROR"),
        ({"token": "a"}, 401, "UNAUTHORIZED"),
        ({"token": ""}, 401, "UNAUTHORIZED"),
        ({"apiKey": "bnt_unknown"}, 401, "UNAUTHORIZED"),
        ({"apiKey": ""}, 401, "UNAUTHORIZED"),
    ],
)
async def test_what_is_no_permission_signs_nobody_in(server, body, status, code):
    response = await server.visitor("10.1.1.1").post(SESSIONS, json=body)
    assert_failure(response, status, code)
    assert "set-cookie" not in response.headers


async def test_a_token_expires(tmp_path):
    async with serving(tmp_path) as server:
        token = server.services.sessions.create_token(server.clock())
        server.clock.advance(milliseconds=TOKEN_MILLISECONDS)
        response = await server.visitor().post(SESSIONS, json={"token": token})
        assert_failure(response, 401, "UNAUTHORIZED")


async def test_guessed_tokens_are_counted_as_unknown_keys_are(tmp_path):
    async with serving(tmp_path, limits__failed_keys_per_minute=2) as server:
        stranger = server.visitor()
        statuses = [
            (await stranger.post(SESSIONS, json={"token": "guess"})).status_code for _ in range(3)
        ]
        assert statuses == [401, 401, 429]


async def test_a_session_ends_after_its_time_and_with_its_key(tmp_path):
    async with serving(tmp_path) as server:
        browser = await sign_in(server)
        by_key = await sign_in(server, apiKey=server.new_key(expires_at=server.clock() + 5))
        assert (await by_key.get(GENERATIONS)).status_code == 200
        server.clock.advance(milliseconds=5)
        assert_failure(await by_key.get(GENERATIONS), 401, "UNAUTHORIZED")
        server.clock.advance(milliseconds=SESSION_MILLISECONDS - 6)
        assert (await browser.get(GENERATIONS)).status_code == 200
        server.clock.advance(milliseconds=1)
        assert_failure(await browser.get(GENERATIONS), 401, "UNAUTHORIZED")


async def test_signing_out_ends_the_session_and_takes_the_cookie_away(server):
    browser = await sign_in(server)
    cookie = browser.cookies["banatie_session"]
    response = await browser.delete(f"{SESSIONS}/current", headers=OWN_PAGE)
    assert response.json() == {"success": True, "message": "Signed out"}
    assert "banatie_session" not in browser.cookies
    browser.cookies.set("banatie_session", cookie)

    async def refused() -> bool:
        return (await browser.get(GENERATIONS)).status_code == 401

    await wait_until_async(refused, "the session to end", 5)


async def test_the_owner_sees_all_sessions_and_ends_any(server):
    owner, other = await sign_in(server), await sign_in(server, apiKey=server.new_key())
    [theirs] = await listed(other)
    assert theirs["id"] in [each["id"] for each in await listed(owner)]
    ended = await owner.delete(f"{SESSIONS}/{theirs['id']}", headers=OWN_PAGE)
    assert (ended.status_code, "set-cookie" in ended.headers) == (200, False)
    again = await owner.delete(f"{SESSIONS}/{theirs['id']}", headers=OWN_PAGE)
    assert_failure(again, 404, "NOT_FOUND")


async def test_a_project_key_does_not_end_the_sessions_of_others(server):
    owner, other = await sign_in(server), await sign_in(server, apiKey=server.new_key())
    [own] = [each for each in await listed(owner) if each["isCurrent"]]
    response = await other.delete(f"{SESSIONS}/{own['id']}", headers=OWN_PAGE)
    assert_failure(response, 404, "NOT_FOUND")
    by_key = await server.client().delete(f"{SESSIONS}/current")
    assert_failure(by_key, 404, "NOT_FOUND")


async def test_events_stop_when_the_session_ends(server):
    browser = await sign_in(server)
    created = await browser.post(GENERATIONS, json={"prompt": "a fox"}, headers=OWN_PAGE)
    generation_id = created.json()["data"]["id"]
    cookie = browser.cookies["banatie_session"]
    async with following(server, browser, generation_id, cookie=cookie) as stream:
        assert (await stream.next()).name == "status"
        assert (await browser.delete(f"{SESSIONS}/current", headers=OWN_PAGE)).status_code == 200
        session_id = server.services.sessions.authenticate(cookie).id
        known = server.app.state.authentication._sessions_by_id
        # The stream itself may have asked again since, and then its end is what is cached.
        await wait_until_async(
            lambda: (latest := known.get(session_id)) is None or latest.revoked_at is not None,
            "the cache to forget",
            30,
        )
        server.worker.enhance(generation_id, "a red fox")
        assert await stream.rest() == []


# --- Requests that other pages make ---------------------------------------------------------------


async def change(browser: Client, headers: dict[str, str]) -> httpx.Response:
    return await browser.post(GENERATIONS, json={"prompt": "a fox"}, headers=headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "http://banatie.test:8080"},
        {"Origin": "https://elsewhere.test"},
        {"Origin": ADDRESS, "Sec-Fetch-Site": "same-site"},
        {"Origin": ADDRESS, "Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_a_change_by_another_page_is_refused(server, headers):
    browser = await sign_in(server)
    assert_failure(await change(browser, headers), 403, "FORBIDDEN")
    # A program that has a key needs no page.
    assert (await change(browser, {**headers, "X-API-Key": server.new_key()})).status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": ADDRESS},
        {"Origin": "https://pictures.example.org"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://proxied.example.org", "Sec-Fetch-Site": "same-origin"},
    ],
)
async def test_a_change_by_the_own_page_counts(tmp_path, headers):
    async with serving(tmp_path, server__public_url="https://pictures.example.org/a") as server:
        browser = await sign_in(server)
        assert (await change(browser, headers)).status_code == 201


async def test_another_page_signs_nobody_in(server):
    token = server.services.sessions.create_token(server.clock())
    for headers in ({"Origin": "https://elsewhere.test"}, {"Sec-Fetch-Site": "cross-site"}):
        response = await server.visitor().post(SESSIONS, json={"token": token}, headers=headers)
        assert_failure(response, 403, "FORBIDDEN")
    await sign_in(server, token=token)


# --- What else is different -----------------------------------------------------------------------


async def test_a_session_is_not_counted_against_the_rate_limit(tmp_path):
    async with serving(tmp_path, limits__requests_per_hour=1) as server:
        key = server.new_key()
        browser = await sign_in(server, apiKey=key)
        answers = [await browser.get(GENERATIONS) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert not [name for name in answers[0].headers if name.startswith("x-ratelimit")]
        client = server.client(key)
        assert [(await client.get(GENERATIONS)).status_code for _ in range(2)] == [200, 429]


async def test_info_says_whether_a_browser_is_signed_in(tmp_path):
    async with serving(tmp_path) as server:
        browser = server.visitor()
        assert (await browser.get("/api/info")).json()["data"]["key"] is None
        browser = await sign_in(server)
        key = (await browser.get("/api/info")).json()["data"]["key"]
        assert (key["type"], key["project"], key["requestsPerHour"]) == ("master", "default", 0)
        server.clock.advance(milliseconds=SESSION_MILLISECONDS)
        assert (await browser.get("/api/info")).json()["data"]["key"] is None


async def test_the_key_of_the_owner_is_listed_nowhere_and_is_no_first_key(tmp_path):
    async with serving(tmp_path) as server:
        owner = await sign_in(server)
        keys, projects = server.services.keys, server.services.projects
        assert keys.is_empty()
        assert (keys.all(), keys.page(10, 0)) == ([], ([], 0))
        assert [project.active_keys for project in projects.all(server.clock())] == [0]
        owner_key = server.services.sessions.authenticate(owner.cookies["banatie_session"]).key
        response = await owner.delete(f"/api/admin/keys/{owner_key.id}", headers=OWN_PAGE)
        assert_failure(response, 404, "NOT_FOUND")
        first = await server.visitor().post(
            "/api/bootstrap/initial-key", headers={"Host": "localhost:3000"}
        )
        assert first.status_code == 201


async def test_without_the_studio_there_are_no_sessions(tmp_path):
    async with serving(tmp_path, server__studio=False) as server:
        visitor = server.visitor()
        cookie = server.services.sessions.create_by_token(
            server.services.sessions.create_token(server.clock()), "", server.clock()
        )
        visitor.cookies.set("banatie_session", cookie)
        assert_failure(await visitor.get(GENERATIONS), 401, "UNAUTHORIZED")
        response = await visitor.post(SESSIONS, json={"token": "a"})
        assert_failure(response, 401, "UNAUTHORIZED")
        assert_failure(await visitor.get("/"), 404, "NOT_FOUND")
        assert_failure(await server.client().get(SESSIONS), 404, "NOT_FOUND")
