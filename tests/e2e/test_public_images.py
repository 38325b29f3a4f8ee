"""From a new server to a picture in a page, by HTTP alone: first key, project key, live URL."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from tests.support.service import Service


def test_from_the_first_key_to_a_picture_in_a_page(new_service: Callable[..., Service]) -> None:
    service = new_service(server__first_key="false", enhancement__time_limit="60")
    _, said = service.serve()
    assert said.startswith(f"Banatie answers at {service.url}\n")
    assert "bnt_" not in said

    # The first key, and with it a key for a project that is made.
    first = service.request("POST", "/api/bootstrap/initial-key")
    assert first.status_code == 201, first.text
    assert service.request("POST", "/api/bootstrap/initial-key").status_code == 403
    service.key = first.json()["data"]["apiKey"]
    wanted = {"type": "project", "organizationSlug": "acme", "projectSlug": "site"}
    made = service.request("POST", "/api/admin/keys", json=wanted)
    assert made.status_code == 201, made.text
    service.key = made.json()["data"]["apiKey"]
    assert service.request("POST", "/api/admin/keys", json=wanted).status_code == 403

    # Two browsers show one page at once: one picture is made, and both get it.
    url = "/cdn/acme/site/live/hero?prompt=a+red+fox&aspectRatio=3:2"
    with ThreadPoolExecutor() as browsers:
        one, other = browsers.map(lambda _: service.request("GET", url), range(2))
    assert (one.status_code, other.status_code) == (200, 200), one.text
    assert one.content == other.content
    assert {one.headers["X-Cache-Status"], other.headers["X-Cache-Status"]} <= {"MISS", "HIT"}
    [record] = service.records()
    assert record["originalPrompt"] == "a red fox"
    assert one.headers["X-Generation-Id"] == record["id"]
    hit = service.request("GET", url)
    assert (hit.headers["X-Cache-Status"], hit.content) == ("HIT", one.content)
    etag = {"If-None-Match": hit.headers["ETag"]}
    assert service.request("GET", url, headers=etag).status_code == 304
    size = Image.open(io.BytesIO(hit.content)).size
    assert size == (record["outputImage"]["width"], record["outputImage"]["height"])

    # A smaller copy of it, by its id and by a name.
    image = f"/cdn/acme/site/img/{record['outputImageId']}"
    small = service.request("GET", f"{image}?w={size[0] // 2}&format=webp")
    assert small.headers["Content-Type"] == "image/webp"
    assert Image.open(io.BytesIO(small.content)).size[0] == size[0] // 2
    alias = f"/api/v1/images/{record['outputImageId']}/alias"
    assert service.request("PUT", alias, json={"alias": "@hero"}).status_code == 200
    named = service.request("GET", "/cdn/acme/site/img/@hero")
    assert named.content == hit.content

    # The scope, made anew, and gone.
    scope = "/api/v1/live/scopes/hero"
    assert service.request("GET", scope).json()["data"]["currentGenerations"] == 1
    again = service.request("POST", f"{scope}/regenerate")
    assert again.json()["data"]["regenerated"] == 1
    assert service.wait_until_ended(record["id"])["outputImageId"] == record["outputImageId"]
    assert service.request("DELETE", scope).status_code == 200
    assert service.request("GET", "/cdn/acme/site/img/@hero").status_code == 200
    assert service.records() == []
