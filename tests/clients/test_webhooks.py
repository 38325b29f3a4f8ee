"""Webhooks of a server that is killed between a generation's end and the receiver's 2xx."""

from __future__ import annotations

import signal

from tests.support.receiver import SECRET, receiving
from tests.support.service import Service


def test_a_killed_server_sends_its_webhooks_after_the_restart(new_service):
    with receiving() as receiver:
        service: Service = new_service(
            webhooks__secret=SECRET, webhooks__allow_private="true", webhooks__first_retry="0.3"
        )
        process, _ = service.serve()
        receiver.statuses = [503]
        accepted = [
            service.post("a fox", autoEnhance=False, steps=2, webhook=receiver.url)
            for _ in range(3)
        ]
        service.wait_for(lambda: receiver.received, "the first message")
        service.stop(process, signal.SIGKILL)
        service.serve()
        service.wait_for(
            lambda: (
                {each.message["data"]["id"] for each in receiver.received[1:]}
                >= {each["id"] for each in accepted}
            ),
            "all messages",
        )
        for each in receiver.received:
            assert each.message["type"] == "generation.success"
            assert each.message["data"]["status"] == "success"
