"""Sends the messages of webhooks, in one background task of the server's process.

At least once: a message is removed after the receiver has answered with 2xx, and a server that is
killed in between sends it again, under the same `webhook-id`. Redirects are not followed and
answers are not read. A receiver that does not answer is asked again later and later, also after a
restart; then its message is given up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import httpx2

import banatie
from banatie.api.dependencies import AppState, in_thread
from banatie.api.schemas import GenerationView, Wire, encode, timestamp, view
from banatie.config import Config
from banatie.errors import BanatieError
from banatie.logs import log_context
from banatie.services import Services
from banatie.store.webhooks import Delivery
from banatie.webhooks import Target, Unreachable, signature

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""How often to look for messages."""
ATTEMPT_SECONDS = 15.0
"""For the whole of an attempt, once the host's name is resolved."""
SENT_AT_ONCE = 8
RETRY_FACTOR = 4
MOST_RETRY_SECONDS = 24 * 3600.0
GONE = 410
"""The status by which a receiver says that it wants no more of this (Standard Webhooks)."""


class WebhookMessage(Wire):
    """What a receiver gets."""

    type: str
    """`generation.success` or `generation.failed`."""
    timestamp: str
    data: GenerationView


class WebhookSender:
    """Sends what is due until it is cancelled."""

    def __init__(self, services: Services, state: AppState) -> None:
        self._write = state.write
        self._generations = services.generations
        self._webhooks = services.webhooks
        self._rules = services.webhook_rules
        self._settings = services.config.webhooks
        self._clock = services.clock
        self._public_url = _public_url(services.config)
        self._sending: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Send what is due, again and again."""
        try:
            while True:
                # A full disk, say: the message waits in its row.
                try:
                    await self._send_due()
                except BanatieError as error:
                    logger.warning("cannot look for webhooks: %s", error)
                await asyncio.sleep(POLL_SECONDS)
        finally:
            sending = list(self._sending.values())
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    async def _send_due(self) -> None:
        limit = SENT_AT_ONCE + len(self._sending)
        due = await in_thread(self._webhooks.due, self._clock(), limit)
        for delivery in due:
            if delivery.id not in self._sending and len(self._sending) < SENT_AT_ONCE:
                task = asyncio.create_task(self._deliver(delivery))
                self._sending[delivery.id] = task
                task.add_done_callback(self._done(delivery))

    def _done(self, delivery: Delivery) -> Callable[[asyncio.Task[None]], None]:
        def forget(task: asyncio.Task[None]) -> None:
            del self._sending[delivery.id]
            if task.cancelled() or (error := task.exception()) is None:
                return
            # Its row is as it was, and so it is sent again.
            known = isinstance(error, BanatieError)
            trace = None if known else error
            logger.error("the webhook %s could not be sent: %s", delivery.id, error, exc_info=trace)

        return forget

    async def _deliver(self, delivery: Delivery) -> None:
        """Make one attempt, and write down what became of it."""
        with log_context(generation_id=delivery.generation_id):
            body = await in_thread(self._message, delivery)
            if body is None:
                await self._write(self._webhooks.remove, delivery.id)
                return
            try:
                status = await self._attempt(delivery, body)
                reason = f"status {status}"
            except Unreachable as error:
                status, reason = 0, str(error)
            if 200 <= status < 300:
                await self._write(self._webhooks.remove, delivery.id)
            elif status == GONE or delivery.attempts + 1 >= self._settings.attempts:
                logger.warning("gave up the webhook %s: %s", delivery.id, reason)
                await self._write(self._webhooks.remove, delivery.id)
            else:
                seconds = self._settings.first_retry * float(RETRY_FACTOR) ** delivery.attempts
                pause = min(seconds, MOST_RETRY_SECONDS)
                logger.info("retrying the webhook %s in %g s: %s", delivery.id, pause, reason)
                due_at = self._clock() + round(pause * 1000)
                await self._write(self._webhooks.postpone, delivery.id, due_at)

    def _message(self, delivery: Delivery) -> bytes | None:
        """The body; None when there is nothing to tell any more."""
        if delivery.is_server_wide and delivery.url not in self._settings.urls:
            return None
        generation = self._generations.find(delivery.generation_id)
        if generation is None or not generation.is_ended:
            # It is made again, and its next end sends a message of its own.
            return None
        return encode(
            WebhookMessage(
                type=f"generation.{generation.status}",
                timestamp=timestamp(delivery.ended_at),
                data=view(generation, self._public_url),
            )
        )

    async def _attempt(self, delivery: Delivery, body: bytes) -> int:
        """The status of the receiver's answer. Raises Unreachable."""
        if not self._settings.secret:
            raise Unreachable("webhooks.secret is not set any more")
        target = await self._rules.target(delivery.url)
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                return await self._post(target, delivery.id, body)
        except TimeoutError:
            raise Unreachable(f"no answer within {ATTEMPT_SECONDS:g} s") from None

    async def _post(self, target: Target, message_id: str, body: bytes) -> int:
        seconds = self._clock() // 1000
        url = httpx2.URL(target.url)
        headers = {
            "host": url.netloc.decode("ascii"),
            "content-type": "application/json",
            "user-agent": f"Banatie/{banatie.__version__}",
            "webhook-id": message_id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": signature(self._settings.secret, message_id, seconds, body),
        }
        # The certificate must be that of the name.
        extensions = {"sni_hostname": target.host}
        failure: Exception = Unreachable("the host has no address")
        # No proxy of the environment, no redirect; `_attempt` limits the time of the whole.
        async with httpx2.AsyncClient(
            trust_env=False, follow_redirects=False, timeout=None
        ) as client:
            for address in target.addresses:
                checked = url.copy_with(host=address)
                try:
                    async with client.stream(
                        "POST", checked, content=body, headers=headers, extensions=extensions
                    ) as response:
                        return response.status_code
                except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                    failure = error
                except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                    failure = error
                    break
        raise Unreachable(f"{target.host}: {failure or type(failure).__name__}") from failure


def _public_url(config: Config) -> str:
    """Where receivers find pictures: as configured, or where the server listens."""
    server = config.server
    return (server.cdn_url or server.public_url).rstrip("/") or server.local_url
