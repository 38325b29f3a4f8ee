from __future__ import annotations

import base64

import pytest

from banatie.api import waiters
from tests.support.api_server import GENERATIONS, following
from tests.support.polling import wait_until_async

pytestmark = pytest.mark.anyio


def told(events):
    return [(event.name, event.data) for event in events]


async def story(server, client, stream, generation_id):
    """A generation's whole life, each change told before the next one is made; its events."""
    worker, events = server.worker, [await stream.next()]
    worker.enhance(generation_id, "A fox\nin the snow \u2028 ❄")
    events.append(await stream.next())
    worker.begin(generation_id, steps=2)
    events += [await stream.next(), await stream.next()]
    for step in (1, 2):
        worker.step(generation_id, step)
        events.append(await stream.next())
    worker.succeed(generation_id)
    return events + await stream.rest()


async def test_the_events_tell_the_whole_story_in_order(server, client):
    created = await client.create()
    async with following(server, client, created["id"]) as stream:
        events = await story(server, client, stream, created["id"])
    assert told(events) == [
        ("status", {"status": "pending"}),
        (
            "prompt",
            {"prompt": "A fox\nin the snow \u2028 ❄", "originalPrompt": "a red fox"},
        ),
        ("status", {"status": "processing"}),
        ("progress", {"step": 0, "steps": 2, "preview": None}),
        ("progress", {"step": 1, "steps": 2, "preview": None}),
        ("progress", {"step": 2, "steps": 2, "preview": None}),
        ("status", {"status": "success"}),
        ("success", await client.record(created["id"])),
    ]


async def test_the_stream_is_one_of_server_sent_events(client, worker):
    created = await client.create(autoEnhance=False)
    worker.paint(created["id"])
    response = await client.get(f"{GENERATIONS}/{created['id']}/events")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-request-id"]
    assert "x-ratelimit-remaining" in response.headers


async def test_a_failure_ends_the_stream(server, client, worker):
    created = await client.create(autoEnhance=False)
    async with following(server, client, created["id"]) as stream:
        await stream.next()
        worker.fail(created["id"], "no paint left")
        events = await stream.rest()
    assert events[-1].name == "failed"
    assert events[-1].data == await client.record(created["id"])
    assert events[-1].data["errorMessage"] == "no paint left"


async def test_a_cancelled_generation_ends_the_stream(server, client):
    created = await client.create()
    async with following(server, client, created["id"]) as stream:
        await stream.next()
        await client.post(f"{GENERATIONS}/{created['id']}/cancel")
        events = await stream.rest()
    assert [event.name for event in events] == ["status", "failed"]
    assert events[-1].data["errorMessage"] == "Cancelled"


async def test_what_has_ended_is_told_at_once(server, client, worker):
    created = await client.create()
    worker.enhance(created["id"], "an enhanced fox")
    worker.paint(created["id"])
    async with following(server, client, created["id"]) as stream:
        events = await stream.rest()
    assert [event.name for event in events] == ["status", "prompt", "success"]


async def test_ids_grow_and_stand_on_the_last_event_of_each_change(server, client):
    created = await client.create()
    async with following(server, client, created["id"]) as stream:
        events = await story(server, client, stream, created["id"])
    ids = [event.id for event in events if event.id]
    assert events[-1].id
    assert all(id.isascii() for id in ids)
    assert list(dict.fromkeys(ids)) == sorted(
        set(ids), key=lambda id: tuple(map(int, id.split(".")))
    )


async def test_last_event_id_resumes_where_it_broke_off(server, client):
    created = await client.create()
    async with following(server, client, created["id"]) as stream:
        events = await story(server, client, stream, created["id"])
    for count in range(1, len(events)):
        # As a browser does it: the last id that came is sent, wherever the connection broke.
        last = next((event.id for event in reversed(events[:count]) if event.id), None)
        async with following(server, client, created["id"], last) as stream:
            resumed = [event.name for event in await stream.rest()]
        assert "success" in resumed, f"lost after {count} events, id {last}"
    # Nothing is left to tell: 204 keeps an EventSource from asking again.
    response = await client.get(
        f"{GENERATIONS}/{created['id']}/events", headers={"Last-Event-ID": events[-1].id}
    )
    assert response.status_code == 204


async def test_last_event_id_in_the_middle_of_the_painting(server, client, worker):
    created = await client.create(autoEnhance=False)
    async with following(server, client, created["id"]) as stream:
        await stream.next()
        worker.begin(created["id"])
        await stream.next()
        progress = await stream.next()
    assert progress.name == "progress"
    async with following(server, client, created["id"], progress.id) as stream:
        await server.wait_until_waiting(created["id"])
        worker.step(created["id"], 3)
        event = await stream.next()
        told = {"step": 3, "steps": 4, "preview": None}
        assert (event.name, event.data) == ("progress", told)
        worker.succeed(created["id"])
        assert (await stream.rest())[-1].name == "success"


@pytest.mark.parametrize("last_event_id", ["", "x", "-1", "1.5", "²", "9" * 5000])
async def test_a_strange_last_event_id_breaks_nothing(client, worker, last_event_id):
    created = await client.create(autoEnhance=False)
    worker.paint(created["id"])
    response = await client.get(
        f"{GENERATIONS}/{created['id']}/events",
        headers={"Last-Event-ID": last_event_id.encode()},
    )
    assert response.status_code == 200, response.text


async def test_a_client_that_goes_away_leaves_nobody_waiting(server, client):
    waiting = server.app.state.waiters.anyone
    created = await client.create()
    assert not waiting()
    async with following(server, client, created["id"]) as stream:
        assert (await stream.next()).name == "status"
        assert waiting()
    del stream
    await wait_until_async(lambda: not waiting(), "the client to be forgotten")


async def test_a_deleted_generation_ends_the_stream(server, client, monkeypatch):
    monkeypatch.setattr(waiters, "DELETED_CHECK_SECONDS", 0.05)
    created = await client.create()
    async with following(server, client, created["id"]) as stream:
        await stream.next()
        await client.delete(f"{GENERATIONS}/{created['id']}")
        assert await stream.rest() == []


async def test_several_follow_the_same_generation(server, client, worker):
    created = await client.create(autoEnhance=False)
    async with (
        following(server, client, created["id"]) as one,
        following(server, client, created["id"]) as other,
    ):
        await one.next()
        await other.next()
        worker.fail(created["id"], "no")
        first, second = await one.rest(), await other.rest()
    assert first[-1] == second[-1]
    assert first[-1].name == "failed"


async def test_the_preview_comes_once_with_the_progress_and_to_everybody(server, client, worker):
    def shown(jpeg: bytes) -> str:
        return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"

    first, second = bytes(range(256)), b"\xff\xd8 another"
    created = await client.create(autoEnhance=False)
    async with following(server, client, created["id"]) as early:
        await early.next()
        worker.begin(created["id"], steps=4)
        assert (await early.next()).name == "status"
        assert (await early.next()).data == {"step": 0, "steps": 4, "preview": None}
        worker.step(created["id"], 1, first)
        assert (await early.next()).data == {"step": 1, "steps": 4, "preview": shown(first)}
        worker.step(created["id"], 2)
        assert (await early.next()).data == {"step": 2, "steps": 4, "preview": None}
        # Who comes in between is shown the latest, whatever the step.
        async with following(server, client, created["id"]) as late:
            assert (await late.next()).name == "status"
            assert (await late.next()).data == {"step": 2, "steps": 4, "preview": shown(first)}
            worker.step(created["id"], 3, second)
            for stream in (early, late):
                told = (await stream.next()).data
                assert told == {"step": 3, "steps": 4, "preview": shown(second)}
        record = await client.get(f"{GENERATIONS}/{created['id']}")
        listed = await client.get(GENERATIONS)
        for response in (record, listed):
            assert "preview" not in response.text
        worker.succeed(created["id"])
        assert all("preview" not in (event.data or {}) for event in await early.rest())


async def test_a_picture_that_is_begun_again_shows_nothing_of_before(server, client, worker):
    created = await client.create(autoEnhance=False)
    worker.begin(created["id"], steps=4)
    worker.step(created["id"], 2, b"before")
    worker.claims.release_claims(worker.clock())
    worker.begin(created["id"], steps=4)
    async with following(server, client, created["id"]) as stream:
        await stream.next()
        assert (await stream.next()).data == {"step": 0, "steps": 4, "preview": None}
