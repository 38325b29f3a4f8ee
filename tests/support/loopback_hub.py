"""A Hugging Face hub on loopback: repositories of small files, and faults on demand.

It serves what `huggingface_hub` and a downloader ask for: a repository's description with its
files' sizes and hashes, and the files themselves, with ranges, redirects to another host and
refusals. Knows nothing of Banatie.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = 2000
"""Bytes; from this size on a file is stored as with LFS, and has a SHA-256."""


@dataclass
class Repository:
    """Files at one commit."""

    files: dict[str, bytes]
    commit: str = "c0ffee" * 6 + "c0ff"
    licence: str = "mit"
    token: str = ""
    """A request without it is refused: the repository is gated."""

    @classmethod
    def from_folder(cls, folder: Path) -> Repository:
        """The files of a folder."""
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return cls({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})


@dataclass
class Request:
    """One received request."""

    method: str
    path: str
    range: str
    authorization: str


@dataclass
class LoopbackHub:
    """The hub's repositories, its faults, and the requests it received."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    url: str = ""
    other_url: str = ""
    """The host that large files are redirected to."""
    redirects: bool = False
    cut_after: list[int] = field(default_factory=list)
    """Of the next responses with a large file: after how many bytes each is cut off."""
    refusals: list[int] = field(default_factory=list)
    """The statuses of the next responses for a file, instead of the file."""
    replaced_content: dict[str, bytes] = field(default_factory=dict)
    """By file name, content that is sent instead of the described one."""
    stall_after: list[int] = field(default_factory=list)
    """As `cut_after`, of files larger than that; the connection stays open and silent."""
    ignores_ranges: bool = False
    serves_html: bool = False
    """Whether every response is a web page."""
    requests: list[Request] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def requests_of(self, name: str) -> list[Request]:
        """The requests for a file, to whatever host."""
        return [request for request in self.requests if request.path.endswith(f"/{name}")]


@contextmanager
def serving(hub: LoopbackHub) -> Iterator[LoopbackHub]:
    """Run the hub, and the other host, until the block ends."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) for _ in range(2)]
    hub.url, hub.other_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.stopped.set()
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


def git_blob(content: bytes) -> str:
    """The SHA-1 of a file in git."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _described(repository: Repository, name: str) -> dict:
    siblings = []
    for file, content in repository.files.items():
        described = {"rfilename": file, "size": len(content), "blobId": git_blob(content)}
        if len(content) >= LARGE:
            sha256 = hashlib.sha256(content).hexdigest()
            described["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
        siblings.append(described)
    return {
        "id": name,
        "modelId": name,
        "sha": repository.commit,
        "tags": [],
        "cardData": {"license": repository.licence},
        "siblings": siblings,
    }


def _handler(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Header and body go out apart, and would wait for each other.
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            # The client may disconnect.
            with suppress(ConnectionError):
                super().handle()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(
                Request(
                    "GET",
                    path,
                    self.headers.get("Range", ""),
                    self.headers.get("Authorization", ""),
                )
            )
            if hub.serves_html:
                self._answer(200, b"<html>Welcome</html>")
            elif path.startswith("/api/models/"):
                self._describe(path.removeprefix("/api/models/"))
            elif path.startswith("/elsewhere/"):
                self._send_file(*self._found(path.removeprefix("/elsewhere/")))
            else:
                self._resolve(path.removeprefix("/"))

        def _describe(self, path: str) -> None:
            name, _, revision = path.partition("/revision/")
            repository = hub.repositories.get(name)
            if repository is None:
                self._refuse(401, "RepoNotFound")
            elif revision not in ("", "main", repository.commit):
                self._refuse(404, "RevisionNotFound")
            else:
                self._answer(200, json.dumps(_described(repository, name)).encode())

        def _found(self, path: str) -> tuple[Repository | None, str]:
            name, _, rest = path.partition("/resolve/")
            return hub.repositories.get(name), rest.partition("/")[2]

        def _resolve(self, path: str) -> None:
            repository, file = self._found(path)
            if repository is None:
                self._refuse(404, "RepoNotFound")
            elif file not in repository.files:
                self._refuse(404, "EntryNotFound")
            elif repository.token and self.headers.get("Authorization") != (
                f"Bearer {repository.token}"
            ):
                self._refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
            elif hub.refusals:
                self._refuse(hub.refusals.pop(0), "")
            elif hub.redirects and len(repository.files[file]) >= LARGE:
                self.send_response(302)
                self.send_header("Location", f"{hub.other_url}/elsewhere/{path}")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self._send_file(repository, file)

        def _send_file(self, repository: Repository, file: str) -> None:
            content = hub.replaced_content.get(file, repository.files[file])
            begin, asked = 0, self.headers.get("Range", "")
            if asked and not hub.ignores_ranges:
                begin = int(asked.removeprefix("bytes=").rstrip("-"))
                if begin >= len(content):
                    self._answer(416, b"")
                    return
            rest = content[begin:]
            self.send_response(206 if begin else 200)
            if begin:
                last = len(content) - 1
                self.send_header("Content-Range", f"bytes {begin}-{last}/{len(content)}")
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            if hub.cut_after and len(content) >= LARGE:
                self.wfile.write(rest[: hub.cut_after.pop(0)])
                self.close_connection = True
                return
            if hub.stall_after and len(content) > max(LARGE, hub.stall_after[0]):
                self.wfile.write(rest[: hub.stall_after.pop(0)])
                hub.stopped.wait()
                return
            self.wfile.write(rest)

        def _refuse(self, status: int, code: str) -> None:
            headers = {"X-Error-Code": code} if code else {}
            self._answer(status, b'{"error": "no"}', headers)

        def _answer(self, status: int, body: bytes, headers: dict | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
