"""The files of the studio: what is served, how it is cached, and what belongs to others."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import banatie
from tests.support.api_server import assert_failure

pytestmark = pytest.mark.anyio

STUDIO = Path(banatie.__file__).parent / "studio"
KINDS = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
FILES = sorted(
    path.relative_to(STUDIO).as_posix() for path in STUDIO.rglob("*.*") if path.suffix in KINDS
)
LARGEST_FIRST_VIEW = 60_000
"""Bytes of the scripts and styles that the page loads at once, compressed."""


async def test_the_page_may_load_nothing_from_elsewhere(server):
    response = await server.visitor().get("/")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    page = response.text
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    # Relative, so that the page may lie below a path.
    assert [link for link in links if not link.startswith("studio/")] == []
    assert [link for link in links if link.removeprefix("studio/") not in FILES] == []


@pytest.mark.parametrize("name", FILES)
async def test_a_file_is_served_as_it_lies_there_and_compressed(server, name):
    visitor = server.visitor()
    content = (STUDIO / name).read_bytes()
    plain = await visitor.get(f"/studio/{name}", headers={"Accept-Encoding": "identity"})
    packed = await visitor.get(f"/studio/{name}", headers={"Accept-Encoding": "br, gzip;q=0.8"})
    assert plain.content == packed.content == content
    assert "content-encoding" not in plain.headers
    compresses = not name.endswith(".webp")
    assert packed.headers.get("Content-Encoding") == ("gzip" if compresses else None)
    assert (plain.headers["ETag"] != packed.headers["ETag"]) == compresses
    assert packed.headers["Cache-Control"] == "no-cache"
    assert plain.headers["Content-Type"].partition(";")[0] == KINDS[Path(name).suffix]


async def test_a_current_copy_is_not_sent_again(server):
    visitor = server.visitor()
    for path in ("/", "/studio/app.js"):
        first = await visitor.get(path)
        again = await visitor.get(path, headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
        other = await visitor.get(path, headers={"If-None-Match": '"other"'})
        assert other.status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "nothing.js",
        "views",
        "vendor/LICENSE.preact",
        "..%2fapi%2fdocs%2fstart.js",
        "%2e%2e/api/docs/start.js",
        "%2fetc%2fpasswd",
        "a%00.js",
        "x" * 5000 + ".js",
    ],
)
async def test_nothing_else_is_served(server, name):
    assert_failure(await server.visitor().get(f"/studio/{name}"), 404, "NOT_FOUND")


async def test_an_unknown_query_is_an_error(server):
    assert_failure(await server.visitor().get("/?token=a"), 400, "VALIDATION_ERROR")


def test_the_first_view_is_small_and_all_of_it_is_loaded_at_once() -> None:
    page = (STUDIO / "index.html").read_text("utf-8")
    linked = set(re.findall(r'(?:href|src)="studio/([^"]+\.(?:js|css))"', page))
    modules = set(statically_imported("app.js"))
    assert modules <= linked
    assert {name for name in linked if name.endswith(".js")} - modules == {"theme.js"}
    sizes = {name: len(gzip.compress((STUDIO / name).read_bytes(), 9)) for name in linked}
    assert sum(sizes.values()) < LARGEST_FIRST_VIEW, sizes


def statically_imported(name: str) -> Iterator[str]:
    """The module and all that it imports before it runs."""
    waiting, seen = [name], set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        yield module
        text = (STUDIO / module).read_text("utf-8")
        for target in re.findall(r'^import\b[^;]*?from\s+"(\.[^"]+)"', text, re.MULTILINE):
            waiting.append(os.path.normpath(Path(module).parent / target))


def test_the_libraries_are_unchanged_and_have_their_licences() -> None:
    listed = dict(
        line.split(maxsplit=1)[::-1]
        for line in (STUDIO / "vendor" / "SHA256SUMS").read_text("ascii").splitlines()
    )
    found = {path.name for path in (STUDIO / "vendor").glob("*.js")}
    assert set(listed) == found
    for name, expected in listed.items():
        assert hashlib.sha256((STUDIO / "vendor" / name).read_bytes()).hexdigest() == expected
        assert (STUDIO / "vendor" / f"LICENSE.{name.removesuffix('.js')}").is_file()
