"""The web application in the test's process, a worker played by the test, and HTTP clients.

Everything is real but the models: the database, the files, the application, and the worker's
claims. What a right answer is, the tests say.
"""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from PIL import Image as PillowImage

from banatie.api.app import create_app
from banatie.config import load_config
from banatie.models.manifest import FileDigest, Manifest, write_manifest
from banatie.records import EnhancementNote, Generation, Image
from banatie.services import Services, open_services
from banatie.store.claims import Claims
from banatie.store.database import Database
from banatie.store.files import Files, generated_key
from banatie.store.gallery import Filters, Gallery
from banatie.store.generations import Generations
from banatie.store.keys import Keys
from tests.support.polling import wait_until_async

ADDRESS = "http://banatie.test:3000"
GENERATIONS = "/api/v1/generations"
IMAGES = "/api/v1/images"
FLOWS = "/api/v1/flows"
PATIENCE = 5.0
"""Seconds after which a test that waits for something fails."""

CREATED_KEYS = {
    "id",
    "projectId",
    "prompt",
    "originalPrompt",
    "autoEnhance",
    "aspectRatio",
    "status",
    "outputImageId",
    "processingTimeMs",
    "createdAt",
    "updatedAt",
}
DETAIL_KEYS = CREATED_KEYS | {"outputImage", "retryCount", "errorMessage", "meta"}
LISTED_KEYS = CREATED_KEYS - {"projectId", "updatedAt"}

INSIDES = ("Traceback", "sqlite", "SELECT", "INSERT", "no such table", ".py", "/tmp", "/work")
"""Parts of internal messages, which must not reach a client."""


class Clock:
    """The time in milliseconds, which stands still unless a test advances it."""

    def __init__(self) -> None:
        self.now = 1_764_324_000_123

    def __call__(self) -> int:
        return self.now

    def advance(self, *, hours: int = 0, seconds: int = 0, milliseconds: int = 0) -> None:
        """Advance the time."""
        self.now += (hours * 3600 + seconds) * 1000 + milliseconds


class Client(httpx.AsyncClient):
    """A client with a key, and its project's id."""

    key = ""
    project_id = ""

    async def create(self, **body: Any) -> dict[str, Any]:
        """Submit a generation; its data."""
        response = await self.post(GENERATIONS, json={"prompt": "a red fox", **body})
        assert response.status_code == 201, response.text
        return response.json()["data"]

    async def upload(self, content: bytes | None = None, **fields: str) -> dict[str, Any]:
        """Upload an image; its data."""
        response = await self.try_upload(content, **fields)
        assert response.status_code == 201, response.text
        return response.json()["data"]

    async def try_upload(self, content: bytes | None = None, **fields: str) -> httpx.Response:
        """The answer to an upload."""
        files = {"file": ("picture.png", picture_bytes() if content is None else content)}
        return await self.post(f"{IMAGES}/upload", files=files, data=fields)

    async def painted(self, worker: Worker, **body: Any) -> dict[str, Any]:
        """A generation that has succeeded."""
        created = await self.create(autoEnhance=False, **body)
        worker.paint(created["id"])
        return await self.record(created["id"])

    async def record(self, generation_id: str) -> dict[str, Any]:
        """The data of a generation as it is now."""
        response = await self.get(f"{GENERATIONS}/{generation_id}")
        assert response.status_code == 200, response.text
        return response.json()["data"]

    async def listed(self, **query: Any) -> dict[str, Any]:
        """A page of the list, whole."""
        response = await self.get(GENERATIONS, params=query)
        assert response.status_code == 200, response.text
        return response.json()


class Worker:
    """The worker, played by a test: its own connection, real claims, real files."""

    def __init__(self, data: Path, clock: Callable[[], int]) -> None:
        self.database = Database(data / "banatie.db")
        self.claims = Claims(self.database, "worker-of-the-test")
        self.files = Files(data / "storage")
        self.keys = Keys(self.database)
        self.clock = clock

    def take(self, stage: str, generation_id: str) -> Generation:
        """Claim rows of this stage until it is this one."""
        while (taken := self.claims.claim(stage, self.clock())) is not None:
            if taken.id == generation_id:
                return taken
        raise AssertionError(f"{generation_id} does not wait for {stage}")

    def enhance(self, generation_id: str, prompt: str, warning: str | None = None) -> None:
        """Claim the row and finish its enhancement with this prompt."""
        taken = self.take("enhance", generation_id)
        note = None if warning else EnhancementNote(taken.template, "tiny", "chat", 0.25)
        assert self.claims.finish_enhancement(
            generation_id, prompt=prompt, note=note, warning=warning, now=self.clock()
        )

    def begin(self, generation_id: str, steps: int = 4) -> None:
        """Claim the row for painting and start painting."""
        self.take("paint", generation_id)
        assert self.claims.start_painting(
            generation_id, model="tiny-painter", steps=steps, guidance_scale=5.0, now=self.clock()
        )

    def step(self, generation_id: str, step: int, preview: bytes | None = None) -> bool:
        """Report a denoising step; False if the worker no longer holds the row."""
        return self.claims.record_step(generation_id, step, self.clock(), preview)

    def succeed(self, generation_id: str, processing_time_ms: int = 8500) -> bytes:
        """Save a picture and finish the row with it; the picture's bytes."""
        generation = Generations(self.database).find(generation_id)
        content = picture_bytes()
        image_id = generation.image.id if generation.image else str(uuid.uuid4())
        storage_key = generated_key(
            self.keys.organization_of(generation.project_id), generation.project_id, image_id
        )
        image = Image(
            id=image_id,
            project_id=generation.project_id,
            storage_key=storage_key,
            mime_type="image/png",
            width=48,
            height=32,
            file_size=len(content),
            created_at=self.clock(),
        )
        with self.files.prepared(storage_key, content) as publish:
            assert self.claims.succeed(
                generation_id, image, processing_time_ms, self.clock(), publish=publish
            )
        return content

    def paint(self, generation_id: str) -> bytes:
        """Start and finish the painting; the picture's bytes."""
        self.begin(generation_id)
        return self.succeed(generation_id)

    def fail(self, generation_id: str, message: str) -> None:
        """Claim the row for painting and let it fail with this message."""
        self.begin(generation_id)
        assert self.claims.fail(generation_id, message, self.clock())


@dataclass(frozen=True)
class Server:
    """The running application, and what it was built from."""

    app: Any
    services: Services
    clock: Clock
    worker: Worker
    data: Path
    clients: list[Client] = field(default_factory=list)

    def new_key(self, *, project: str | None = None, **options: Any) -> str:
        """The text of a new key, by default in a new project."""
        name = project or f"project-{uuid.uuid4().hex}"
        return self.services.keys.create("test", self.clock(), project_slug=name, **options)

    def client(self, key: str | None = None, **options: Any) -> Client:
        """A client with this key, or with a new one in a new project."""
        client = self.visitor()
        client.key = key or self.new_key(**options)
        client.headers["X-API-Key"] = client.key
        client.project_id = self.services.keys.authenticate(client.key).project.id
        return client

    def visitor(self, address: str = "127.0.0.1") -> Client:
        """A client without a key, at this address."""
        transport = httpx.ASGITransport(self.app, client=(address, 50000))
        client = Client(transport=transport, base_url=ADDRESS, timeout=PATIENCE)
        self.clients.append(client)
        return client

    def generations_of(self, client: Client) -> list[Generation]:
        """The rows of the client's project, straight from the database."""
        gallery = Gallery(self.services.database)
        filters = Filters(include_deleted=True)
        return gallery.page(client.project_id, filters, limit=100).generations

    async def accepted(self, client: Client) -> str:
        """The id of the project's only generation, as soon as its row is there."""
        rows = await wait_until_async(
            lambda: self.generations_of(client), "the request to be accepted", PATIENCE
        )
        assert len(rows) == 1
        return rows[0].id

    async def wait_until_waiting(self, generation_id: str, requests: int = 1) -> None:
        """Wait until this many requests wait for a change of the generation."""
        waiting = self.app.state.waiters._queues
        await wait_until_async(
            lambda: len(waiting.get(generation_id, ())) >= requests,
            f"{requests} requests to wait",
            PATIENCE,
        )

    async def assert_still_waiting(self, generation_id: str, *requests: asyncio.Task) -> None:
        """That these requests wait, and still do when a later one has been answered."""
        await self.wait_until_waiting(generation_id, len(requests))
        assert (await self.visitor().get("/health")).status_code in (200, 503)
        assert not any(request.done() for request in requests)

    def execute(self, *statements: str) -> None:
        """Change the database by statements that Banatie itself never runs."""
        with sqlite3.connect(self.data / "banatie.db", timeout=PATIENCE) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()


@asynccontextmanager
async def serving(data: Path, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Server]:
    """A server over this data folder; settings as `section__key`.

    By default the answer to a POST does not wait for the enhancement.
    """
    overrides = {name.replace("__", "."): value for name, value in settings.items()}
    clock = clock or Clock()
    config = load_config(
        None,
        {},
        {"storage.data_dir": str(data), "enhancement.response_wait": 0, **overrides},
    )
    services = open_services(config, clock)
    app = create_app(services)
    server = Server(app, services, clock, Worker(data, clock), data)
    async with app.lifespan():
        try:
            yield server
        finally:
            for client in server.clients:
                await client.aclose()
    server.worker.database.close()
    services.close()


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str | None
    id: str | None
    data: Any


class EventStream:
    """A client of a generation's events that may disconnect at any time."""

    def __init__(
        self,
        server: Server,
        client: Client,
        generation_id: str,
        last_event_id: str | None,
        cookie: str | None,
    ) -> None:
        headers = [(b"x-api-key", client.key.encode()), (b"host", b"banatie.test:3000")]
        if cookie is not None:
            headers[0] = (b"cookie", f"banatie_session={cookie}".encode())
        if last_event_id is not None:
            headers.append((b"last-event-id", last_event_id.encode()))
        path = f"{GENERATIONS}/{generation_id}/events"
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 50000),
            "server": ("banatie.test", 3000),
        }
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._request_read = False
        self._text = ""
        self._task = asyncio.create_task(server.app(self._scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if not self._request_read:
            self._request_read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self._messages.put_nowait(message)

    async def started(self) -> dict[str, str]:
        """The response's headers; its status must be 200."""
        message = await asyncio.wait_for(self._messages.get(), PATIENCE)
        assert message["status"] == 200
        return {name.decode().lower(): value.decode() for name, value in message["headers"]}

    async def next(self) -> Event | None:
        """The next event; None at the end of the stream. Comments are skipped."""
        while True:
            block, separator, rest = self._text.partition("\n\n")
            if separator:
                self._text = rest
                event = _event(block)
                if event is not None:
                    return event
                continue
            message = await asyncio.wait_for(self._messages.get(), PATIENCE)
            self._text += message["body"].decode().replace("\r\n", "\n")
            if not message.get("more_body"):
                self._text = self._text.rstrip("\n") + "\n\n" if self._text.strip() else ""
                if not self._text:
                    return None

    async def rest(self) -> list[Event]:
        """All events up to the end of the stream."""
        events = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events

    async def leave(self) -> None:
        """Disconnect, and wait until the server has noticed."""
        self._gone.set()
        await asyncio.wait_for(self._task, PATIENCE)


@asynccontextmanager
async def following(
    server: Server,
    client: Client,
    generation_id: str,
    last_event_id: str | None = None,
    *,
    cookie: str | None = None,
) -> AsyncIterator[EventStream]:
    """The events of a generation, as they come; with the client's key, or a session's cookie."""
    stream = EventStream(server, client, generation_id, last_event_id, cookie)
    await stream.started()
    try:
        yield stream
    finally:
        await stream.leave()


def _event(block: str) -> Event | None:
    fields: dict[str, str] = {}
    for line in block.split("\n"):
        name, _, value = line.partition(":")
        if name:
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value
    if "data" not in fields:
        return None
    return Event(fields.get("event"), fields.get("id"), json.loads(fields["data"]))


def picture_bytes() -> bytes:
    """A small PNG, 48 by 32."""
    buffer = io.BytesIO()
    PillowImage.effect_noise((48, 32), 60).save(buffer, "png")
    return buffer.getvalue()


def add_lora(models: Path, name: str, kind: str = "lora") -> None:
    """Write a LoRA's folder as an import does, with dummy weights, which only a worker reads."""
    (models / name).mkdir(parents=True)
    files = {"lora.safetensors": FileDigest(4, "")}
    write_manifest(models / name, Manifest(kind, name, name, "MIT", "a test", files=files))


def assert_failure(
    response: httpx.Response, status: int, code: str, field: str | None = None
) -> dict[str, Any]:
    """Assert the shape of all errors, with this code; the error."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"success", "error"}
    assert body["success"] is False
    error = body["error"]
    assert {"code", "message"} <= set(error) <= {"code", "message", "details"}
    assert error["code"] == code, error
    assert isinstance(error["message"], str)
    assert error["message"].strip()
    assert not [word for word in INSIDES if word in response.text]
    if field is not None:
        assert [detail["field"] for detail in error["details"]] == [field]
        assert all(set(detail) == {"field", "message"} for detail in error["details"])
        assert all(detail["message"] for detail in error["details"])
    return error
