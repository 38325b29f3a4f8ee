"""Sending a file while another one takes its place."""

from __future__ import annotations

import pytest

from banatie.api.file_response import send_file, status_of
from banatie.store.files import Files, is_being_replaced

pytestmark = pytest.mark.anyio

KEY = "default/11111111-1111-4111-8111-111111111111/generated/picture.png"
OLD, NEW = b"old" * 10_000, b"new" * 20_000


@pytest.mark.parametrize(("asked", "expected"), [({}, OLD), ({b"range": b"bytes=3-"}, OLD[3:])])
async def test_a_picture_that_is_replaced_while_it_is_sent_is_whole(tmp_path, asked, expected):
    files = Files(tmp_path)
    files.save(KEY, OLD)
    sent = []
    with files.prepared(KEY, NEW) as publish:
        path = files.path(KEY)

        async def send(message):
            sent.append(message)
            if message["type"] == "http.response.start":
                publish()

        scope = {"type": "http", "headers": list(asked.items())}
        scope["extensions"] = {"http.response.pathsend": {}}
        await send_file(path, status_of(path), scope, send, {})
    start, *bodies = sent
    assert b"".join(each["body"] for each in bodies) == expected
    assert dict(start["headers"])[b"content-length"] == str(len(expected)).encode()
    assert path.read_bytes() == NEW
    # What follows is sent by the server itself again.
    assert not is_being_replaced(status_of(path))
