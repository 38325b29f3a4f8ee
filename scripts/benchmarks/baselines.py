"""The baselines, each a process: `python -m scripts.benchmarks.baselines`.

row PORT DATABASE     a bare Litestar handler that reads one generation's row
list PORT DATABASE    the same for a page of the list: the same SQL and nothing else
static PORT FOLDER    granian's own static files, without Python
file PORT FOLDER      a bare ASGI handler that sends the folder's files
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server.embed import Server
from litestar import Litestar, get

ROW = "SELECT * FROM generations WHERE id = ?"
PAGE = (
    "SELECT * FROM generations WHERE number IN (SELECT number FROM generations "
    "WHERE project_id = ? AND deleted_at IS NULL ORDER BY created_at DESC, id DESC "
    "LIMIT ? OFFSET ?) ORDER BY created_at DESC, id DESC"
)


def main(kind: str, port: int, target: str) -> None:
    """Serve until the process is terminated."""
    if kind == "static":
        app, static = (
            _nothing,
            {"static_path_route": ["/static"], "static_path_mount": [Path(target)]},
        )
    elif kind == "file":
        app, static = _file_handler(Path(target)), {}
    else:
        app, static = _application(Path(target)), {}
    server = Server(
        app,
        port=port,
        interface=Interfaces.ASGI,
        websockets=False,
        log_level=LogLevels.error,
        **static,
    )
    asyncio.run(_serve(server))


async def _serve(server: Server) -> None:
    await server.serve()


async def _nothing(scope: dict, receive: object, send: object) -> None:
    raise RuntimeError("only static files are served here")


def _file_handler(folder: Path) -> Callable[..., Awaitable[None]]:
    async def send_file(scope: dict, receive: object, send: Callable[..., Awaitable[None]]) -> None:
        path = folder / scope["path"].rpartition("/")[2]
        status = await asyncio.to_thread(path.stat)
        headers = [
            (b"content-type", b"image/png"),
            (b"content-length", b"%d" % status.st_size),
            (b"etag", b'"%x-%x"' % (status.st_mtime_ns, status.st_size)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.pathsend", "path": str(path)})

    return send_file


def _application(database: Path) -> Litestar:
    local = threading.local()

    def query(sql: str, parameters: tuple) -> list[dict]:
        if not hasattr(local, "connection"):
            local.connection = sqlite3.connect(database)
            local.connection.row_factory = sqlite3.Row
        return [dict(row) for row in local.connection.execute(sql, parameters)]

    @get("/row/{generation_id:str}", sync_to_thread=True)
    def row(generation_id: str) -> dict:
        return query(ROW, (generation_id,))[0]

    @get("/list/{project_id:str}", sync_to_thread=True)
    def page(project_id: str, limit: int, offset: int) -> list[dict]:
        return query(PAGE, (project_id, limit, offset))

    return Litestar([row, page], openapi_config=None, logging_config=None)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
