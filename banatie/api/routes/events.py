"""The server-sent events (SSE) of a generation, for one client.

The route that answers with them is in `generations`; how changes arrive, `waiters` knows.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

from litestar.response.sse import ServerSentEventMessage

from banatie.api.dependencies import AppState, in_thread
from banatie.api.schemas import ProgressEvent, encode, view
from banatie.records import Generation, Key, Session
from banatie.store.previews import Preview

KEEP_ALIVE = ServerSentEventMessage(data=None, comment="keep-alive")


async def events(
    generation_id: str, app: AppState, key: Key, session: Session | None, seen: int, url: str
) -> AsyncIterator[ServerSentEventMessage]:
    """The events of the generation until it has ended, newer than the revision `seen`.

    They stop when the `key` of the client, or its session, is revoked or expires.
    """
    before: Generation | None = None
    shown_step: int | None = None
    async for now in app.waiters.follow(generation_id):
        if not await app.authentication.is_still_active(key, session):
            return
        if now is None:
            yield KEEP_ALIVE
            continue
        if now.revision > seen:
            preview = await _new_preview(app, now, shown_step)
            if preview is not None:
                shown_step = preview.step
            elif now.status != "processing":
                shown_step = None
            changes = _changes(before, now, preview, url)
            for number, (event, data) in enumerate(changes, 1):
                # Only the last event of a revision has its id, for resuming.
                revision = now.revision if number == len(changes) else None
                yield ServerSentEventMessage(encode(data), event=event, id=revision)
        before = now


async def _new_preview(app: AppState, now: Generation, shown_step: int | None) -> Preview | None:
    """The latest preview, unless it is that of the step that was sent last."""
    if now.status != "processing":
        return None
    preview = await in_thread(app.previews.find, now.id)
    return preview if preview and preview.step != shown_step else None


def _changes(
    before: Generation | None, now: Generation, preview: Preview | None, url: str
) -> list[tuple[str, object]]:
    changes: list[tuple[str, object]] = []
    if before is None or before.status != now.status:
        changes.append(("status", {"status": now.status}))
    if now.enhanced_at is not None and (before is None or before.enhanced_at is None):
        changes.append(("prompt", {"prompt": now.prompt, "originalPrompt": now.original_prompt}))
    if now.status == "processing" and now.steps is not None:
        progress = (now.step, now.steps)
        if preview or before is None or (before.step, before.steps) != progress:
            changes.append(("progress", ProgressEvent(*progress, _data_url(preview))))
    if now.is_ended:
        changes.append((now.status, view(now, url)))
    return changes


def _data_url(preview: Preview | None) -> str | None:
    if preview is None:
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(preview.jpeg).decode()}"
