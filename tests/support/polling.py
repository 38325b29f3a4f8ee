"""Waiting in tests: poll a condition until it holds or a deadline has passed.

There is no fixed sleep in the tests: a sleep is too short on a busy machine and too long on a
quiet one. It doesn't know what is polled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.005

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T],
    what: str,
    seconds: float = TIMEOUT_SECONDS,
    *,
    interval: float = POLL_SECONDS,
    details: Callable[[], str] = str,
) -> T:
    """Poll until the condition is true and return its value.

    After so many seconds the test fails with `what` it waited for and with `details()`.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}: {details()}")
        time.sleep(interval)
    return value


async def wait_until_async(
    condition: Callable[[], T | Awaitable[T]], what: str, seconds: float = TIMEOUT_SECONDS
) -> T:
    """Poll as `wait_until` does, without blocking the event loop; the condition may be async."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}")
        await asyncio.sleep(POLL_SECONDS)
