"""During a generation: waiting for it, following its events, cancelling it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.service import Service

LONG = {"autoEnhance": False, "steps": 100}


def events(service: Service, generation_id: str, **headers: str) -> Iterator[tuple[str, int, dict]]:
    """The events of a generation as name, last id and data, until the server ends the stream."""
    last_id = 0
    with (
        httpx.Client(base_url=service.url, trust_env=False, timeout=60) as client,
        client.stream(
            "GET",
            f"/api/v1/generations/{generation_id}/events",
            headers={"X-API-Key": service.key, **headers},
        ) as response,
    ):
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in response.iter_lines():
            if not line and fields:
                last_id = int(fields.get("id", last_id))
                yield fields["event"], last_id, json.loads(fields["data"])
                fields = {}
            elif line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value


def test_the_events_of_a_picture(service: Service) -> None:
    # Behind a longer one, so that its stream is open before it starts.
    service.post("a dog", **LONG | {"steps": 40})
    record = service.post("a red cat", prefer="respond-async", steps=40)
    assert record["prompt"] == record["originalPrompt"]
    followed = list(events(service, record["id"]))

    names = [name for name, _, _ in followed]
    assert names[0] == "status"
    assert names[-1] == "success"
    assert names.count("prompt") == names.count("success") == 1
    statuses = [data["status"] for name, _, data in followed if name == "status"]
    assert statuses[0] == "pending"
    assert statuses[-2:] == ["processing", "success"]
    [prompt] = [data for name, _, data in followed if name == "prompt"]
    assert prompt["originalPrompt"] == "a red cat" != prompt["prompt"]
    progress = [(data["step"], data["steps"]) for name, _, data in followed if name == "progress"]
    assert progress
    assert progress == sorted(set(progress))
    assert {steps for _, steps in progress} == {40}
    numbers = [number for _, number, _ in followed]
    assert numbers == sorted(numbers)
    assert followed[-1][2] == service.get(record["id"])

    rest = list(events(service, record["id"], **{"Last-Event-ID": str(numbers[-1] - 1)}))
    assert rest[-1] == followed[-1]
    # No event is left: after a 204 a browser does not reconnect.
    path = f"/api/v1/generations/{record['id']}/events"
    nothing = service.request("GET", path, headers={"Last-Event-ID": str(numbers[-1])})
    assert nothing.status_code == 204


def test_waiting_ends_with_the_picture_or_with_the_time(service: Service) -> None:
    response = service.request(
        "POST",
        "/api/v1/generations",
        json={"prompt": "a cat", **LONG},
        headers={"Prefer": "wait=0"},
    )
    assert response.status_code == 201
    assert response.headers["Preference-Applied"] == "wait=0"
    record = response.json()["data"]
    assert record["status"] in ("pending", "processing")
    response = service.request(
        "GET", f"/api/v1/generations/{record['id']}", headers={"Prefer": "wait=600"}
    )
    assert response.headers["Preference-Applied"] == "wait=120"
    assert response.json()["data"]["status"] == "success"


def test_a_cancelled_picture_gives_way_at_once_and_leaves_nothing(service: Service) -> None:
    record = service.post("a cat", **LONG)
    service.wait_until_painting(record["id"])
    before = service.files()
    response = service.request("POST", f"/api/v1/generations/{record['id']}/cancel")
    assert response.status_code == 200
    cancelled = response.json()["data"]
    assert (cancelled["status"], cancelled["errorMessage"]) == ("failed", "Cancelled")

    following = service.paint("a dog")
    assert service.files() == before | {f"{following['outputImageId']}.png"}
    assert service.get(record["id"])["outputImage"] is None
    assert service.get(record["id"])["status"] == "failed"


def test_who_waits_for_a_picture_learns_that_it_was_cancelled(service: Service) -> None:
    first = service.post("a dog", **LONG)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            service.request,
            "POST",
            "/api/v1/generations",
            json={"prompt": "a cat that is not wanted", **LONG},
            headers={"Prefer": "wait=60"},
        )

        def newest() -> dict | None:
            [record] = service.request("GET", "/api/v1/generations?limit=1").json()["data"]
            return record if record["prompt"] == "a cat that is not wanted" else None

        record = service.wait_for(newest, "the record")
        for generation_id in (record["id"], first["id"]):
            service.request("POST", f"/api/v1/generations/{generation_id}/cancel")
        response = waiting.result(30)
    assert response.status_code == 500
    error = response.json()["error"]
    assert (error["code"], error["message"]) == ("GENERATION_FAILED", "Cancelled")
    assert error["details"]["id"] == record["id"]


@pytest.mark.parametrize("query", ["", "?soft=true"])
def test_a_generation_deleted_while_it_is_painted_leaves_no_file(
    service: Service, query: str
) -> None:
    record = service.post("a cat", **LONG)
    service.wait_until_painting(record["id"])
    before = service.files()
    path = f"/api/v1/generations/{record['id']}"
    assert service.request("DELETE", path + query).status_code == 200
    following = service.paint("a dog")
    assert service.files() == before | {f"{following['outputImageId']}.png"}
    if query:
        assert service.get(record["id"])["errorMessage"] == "Cancelled"
    else:
        assert service.request("GET", path).status_code == 404
