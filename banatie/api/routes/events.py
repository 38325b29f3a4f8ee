"""A generation's life as server-sent events, told to one follower."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

from litestar.response.sse import ServerSentEventMessage

from banatie.api.dependencies import AppState, in_thread
from banatie.api.schemas import ProgressEvent, encode, view
from banatie.records import Generation
from banatie.store.previews import Preview

KEEP_ALIVE = ServerSentEventMessage(data=None, comment="still here")


async def events(
    generation_id: str, front: AppState, seen: int, url: str
) -> AsyncIterator[ServerSentEventMessage]:
    """What happens to the generation until it has ended, but for what was `seen`, a revision."""
    before: Generation | None = None
    shown: int | None = None
    async for now in front.waiters.follow(generation_id):
        if now is None:
            yield KEEP_ALIVE
            continue
        if now.revision > seen:
            preview = await _unseen_preview(front, now, shown)
            shown = preview.step if preview else shown if now.status == "processing" else None
            told = _differences(before, now, preview, url)
            for number, (event, data) in enumerate(told, 1):
                # Only with the last of a revision's events is that revision told.
                revision = now.revision if number == len(told) else None
                yield ServerSentEventMessage(encode(data), event=event, id=revision)
        before = now


async def _unseen_preview(front: AppState, now: Generation, shown: int | None) -> Preview | None:
    """The preview, unless it is that of the step that was `shown` last."""
    if now.status != "processing":
        return None
    preview = await in_thread(front.previews.find, now.id)
    return preview if preview and preview.step != shown else None


def _differences(
    before: Generation | None, now: Generation, preview: Preview | None, url: str
) -> list[tuple[str, object]]:
    told: list[tuple[str, object]] = []
    if before is None or before.status != now.status:
        told.append(("status", {"status": now.status}))
    if now.enhanced_at is not None and (before is None or before.enhanced_at is None):
        told.append(("prompt", {"prompt": now.prompt, "originalPrompt": now.original_prompt}))
    if now.status == "processing" and now.steps is not None:
        progress = (now.step, now.steps)
        if preview or before is None or (before.step, before.steps) != progress:
            told.append(("progress", ProgressEvent(*progress, _data_url(preview))))
    if now.is_ended:
        told.append((now.status, view(now, url)))
    return told


def _data_url(preview: Preview | None) -> str | None:
    if preview is None:
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(preview.jpeg).decode()}"
