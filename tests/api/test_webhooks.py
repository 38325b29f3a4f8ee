"""Webhooks: a generation's end reaches a real receiver, sooner or later."""

from __future__ import annotations

import pytest

from banatie.api import webhook_sender
from tests.support.api_server import GENERATIONS, assert_failure, serving
from tests.support.polling import wait_until_async
from tests.support.receiver import SECRET, receiving

pytestmark = pytest.mark.anyio

SETTINGS = {"webhooks__secret": SECRET, "webhooks__allow_private": "true"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_sender, "POLL_SECONDS", 0.01)


@pytest.fixture
def receiver():
    with receiving() as running:
        yield running


@pytest.fixture
async def hooked(anyio_backend, tmp_path):
    """A server with webhooks on."""
    async with serving(tmp_path, **SETTINGS) as running:
        yield running


async def got(receiver, number: int = 1):
    await wait_until_async(lambda: len(receiver.received) >= number, f"message {number}")
    assert len(receiver.received) == number
    return receiver.received[-1]


async def nothing_waits(server) -> None:
    """That no message waits any more, now or later."""
    await wait_until_async(lambda: not server.services.webhooks.due(2**60, 9), "no message")


async def test_the_finished_generation_is_sent_and_signed(hooked, receiver):
    client = hooked.client()
    record = await client.painted(hooked.worker, webhook=receiver.url)
    received = await got(receiver)
    message = received.message
    assert message["type"] == "generation.success"
    assert message["timestamp"] == record["updatedAt"]
    storage_url = message["data"]["outputImage"].pop("storageUrl")
    # Without a request there is no Host header that names the server.
    assert record["outputImage"].pop("storageUrl").endswith(storage_url.partition("3000")[2])
    assert message["data"] == record
    assert received.headers["content-type"] == "application/json"
    assert received.headers["host"] in receiver.url
    assert "webhook" not in record
    await nothing_waits(hooked)


async def test_failed_and_cancelled_generations_are_sent_too(hooked, receiver):
    client = hooked.client()
    failed = await client.create(autoEnhance=False, webhook=receiver.url)
    hooked.worker.fail(failed["id"], "No memory")
    message = (await got(receiver)).message
    assert message["type"] == "generation.failed"
    assert message["data"]["errorMessage"] == "No memory"
    cancelled = await client.create(webhook=receiver.url)
    await client.post(f"{GENERATIONS}/{cancelled['id']}/cancel")
    assert (await got(receiver, 2)).message["data"]["errorMessage"] == "Cancelled"
    await client.post(f"{GENERATIONS}/{failed['id']}/regenerate")
    hooked.worker.paint(failed["id"])
    assert (await got(receiver, 3)).message["type"] == "generation.success"


async def test_a_message_is_retried_later_and_later_and_then_given_up(hooked, receiver, caplog):
    receiver.statuses = [500, 302, 404, *[503] * 6]
    receiver.headers = {"Location": receiver.url}
    await hooked.client().painted(hooked.worker, webhook=receiver.url)
    ids = set()
    for attempt in range(9):
        ids.add((await got(receiver, attempt + 1)).headers["webhook-id"])
        if attempt < 8:
            pause = 5_000 * 4**attempt
            now = hooked.clock()
            due = hooked.services.webhooks.due
            await wait_until_async(lambda: not due(now, 9), "the next attempt to be put off")  # noqa: B023
            assert due(now + min(pause, 86_400_000) - 1, 9) == []
            assert len(due(now + min(pause, 86_400_000), 9)) == 1
            hooked.clock.advance(milliseconds=min(pause, 86_400_000))
    await nothing_waits(hooked)
    assert len(ids) == 1
    assert "gave up the webhook" in caplog.text


async def test_a_receiver_that_wants_no_more_gets_no_more(hooked, receiver):
    receiver.statuses = [410]
    await hooked.client().painted(hooked.worker, webhook=receiver.url)
    await got(receiver)
    await nothing_waits(hooked)


async def test_a_large_answer_is_not_read(hooked, receiver):
    receiver.answer = b"x" * 50_000_000
    await hooked.client().painted(hooked.worker, webhook=receiver.url)
    await got(receiver)
    await nothing_waits(hooked)


async def test_a_message_waits_for_a_server_that_was_stopped(anyio_backend, tmp_path, receiver):
    receiver.statuses = [500]
    async with serving(tmp_path, **SETTINGS) as first:
        await first.client().painted(first.worker, webhook=receiver.url)
        before = await got(receiver)
        await wait_until_async(
            lambda: not first.services.webhooks.due(first.clock(), 1), "the retry to be put off"
        )
    first.clock.advance(seconds=5)
    async with serving(tmp_path, first.clock, **SETTINGS) as second:
        after = await got(receiver, 2)
        await nothing_waits(second)
    assert after.headers["webhook-id"] == before.headers["webhook-id"]
    assert int(after.headers["webhook-timestamp"]) == first.clock() // 1000
    assert after.message == before.message


async def test_the_server_wide_list_gets_every_generation_once(anyio_backend, tmp_path, receiver):
    async with serving(tmp_path, **SETTINGS, webhooks__urls=receiver.url) as server:
        client = server.client()
        first = await client.painted(server.worker)
        assert (await got(receiver)).message["data"]["id"] == first["id"]
        # Named twice, told once.
        second = await client.painted(server.worker, webhook=receiver.url)
        assert (await got(receiver, 2)).message["data"]["id"] == second["id"]
        await nothing_waits(server)


async def test_a_url_that_has_left_the_list_gets_nothing(anyio_backend, tmp_path, receiver):
    receiver.statuses = [500]
    async with serving(tmp_path, **SETTINGS, webhooks__urls=receiver.url) as first:
        await first.client().painted(first.worker)
        await got(receiver)
    first.clock.advance(hours=1)
    async with serving(tmp_path, first.clock, **SETTINGS) as second:
        await nothing_waits(second)
    assert len(receiver.received) == 1


async def test_a_private_address_is_refused_again_when_the_message_is_sent(
    anyio_backend, tmp_path, receiver
):
    receiver.statuses = [500]
    async with serving(tmp_path, **SETTINGS) as first:
        await first.client().painted(first.worker, webhook=receiver.url)
        await got(receiver)
    first.clock.advance(hours=1)
    async with serving(tmp_path, first.clock, webhooks__secret=SECRET) as strict:
        now = strict.clock()
        await wait_until_async(lambda: not strict.services.webhooks.due(now, 1), "the attempt")
        assert len(strict.services.webhooks.due(2**60, 1)) == 1
    assert len(receiver.received) == 1


async def test_a_deleted_generation_sends_nothing_more(hooked, receiver):
    receiver.statuses = [500]
    client = hooked.client()
    record = await client.painted(hooked.worker, webhook=receiver.url)
    await got(receiver)
    assert (await client.delete(f"{GENERATIONS}/{record['id']}")).status_code == 200
    await nothing_waits(hooked)


async def test_a_webhook_that_cannot_be_called_is_refused(hooked, client):
    own = hooked.client()
    for url in ("no url", "ftp://example.org/x"):
        response = await own.post(GENERATIONS, json={"prompt": "a fox", "webhook": url})
        assert_failure(response, 400, "VALIDATION_ERROR", "webhook")
    response = await client.post(
        GENERATIONS, json={"prompt": "a fox", "webhook": "https://8.8.8.8/hook"}
    )
    assert (
        "webhooks.secret" in assert_failure(response, 400, "VALIDATION_ERROR", "webhook")["message"]
    )
    async with serving(hooked.data / "strict", webhooks__secret=SECRET) as strict:
        response = await strict.client().post(
            GENERATIONS, json={"prompt": "a fox", "webhook": "http://127.0.0.1:9/"}
        )
        assert "allow_private" in assert_failure(response, 400, "VALIDATION_ERROR")["message"]
        assert (await strict.client().create(webhook="https://8.8.8.8/hook", autoEnhance=False))[
            "status"
        ] == "pending"
