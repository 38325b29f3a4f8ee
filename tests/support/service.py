"""A tested service: a data folder with tiny models, and every process that is started on it.

Tests use the service as a user does: by its command line, HTTP and files. Its environment holds
the settings and nothing else of this machine, and `close` leaves no process behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx

from tests.support.polling import wait_until

ROOT = Path(__file__).parents[2]
CONNECTION_GUARD = Path(__file__).parent / "connection_guard"
START_SECONDS = 90
"""Importing torch takes 4 s on a quiet machine, and these machines are seldom quiet."""
POLL_SECONDS = 0.03

T = TypeVar("T")


@dataclass(frozen=True)
class TinyModels:
    """Folders of models that run in milliseconds."""

    painting: Path
    language: Path

    @classmethod
    def make(cls, folder: Path) -> TinyModels:
        """Write both into `folder`."""
        # Imported here because it imports torch, which not every tested service needs.
        from tests.support.tiny_models import make_tiny_language_model, make_tiny_sdxl

        return cls(
            make_tiny_sdxl(folder / "tiny-sdxl"), make_tiny_language_model(folder / "tiny-llm")
        )


class Service:
    """One data folder and the processes on it."""

    launcher: tuple[str, ...] = ()
    """A prefix of the command line of each process."""

    def __init__(self, folder: Path, models: TinyModels, **settings: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log.txt"
        self.key = ""
        self._connection_log = folder / "connections.txt"
        self._processes: list[subprocess.Popen] = []
        # Without keep-alive: a server that stops would have to close idle connections, too.
        self._client = httpx.Client(
            base_url=self.url,
            trust_env=False,
            timeout=60,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join((str(CONNECTION_GUARD), str(ROOT))),
            "OMP_NUM_THREADS": "1",
            "CONNECTION_LOG": str(self._connection_log),
            "BANATIE_SERVER__PORT": str(self.port),
            "BANATIE_STORAGE__DATA_DIR": str(self.data),
            "BANATIE_STORAGE__MODELS_DIR": str(folder / "models"),
            "BANATIE_PAINTING__MODEL": str(models.painting),
            "BANATIE_ENHANCEMENT__MODEL": str(models.language),
            "BANATIE_LIMITS__REQUESTS_PER_HOUR": "0",
            **{f"BANATIE_{name.upper()}": value for name, value in settings.items()},
        }

    # Processes

    def start(self, *arguments: str, output: Path | None = None) -> subprocess.Popen:
        """Start `python -m banatie` with these arguments; standard output goes into a file."""
        number = len(self._processes)
        output = output or self.folder / f"output-{number}.txt"
        with output.open("wb") as standard_output, self.log.open("ab") as log:
            process = subprocess.Popen(
                [*self.launcher, sys.executable, "-m", "banatie", *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=standard_output,
                stderr=log,
                # A shell that runs the tests in the background lets them ignore SIGINT; that is
                # inherited.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self._processes.append(process)
        return process

    def serve(self, *arguments: str, ready: bool = True) -> tuple[subprocess.Popen, str]:
        """Start `serve`; its process and what it printed.

        Waits until the whole service is `ready`, or only until the server answers.
        """
        output = self.folder / f"output-{len(self._processes)}.txt"
        process = self.start("serve", *arguments, output=output)

        def healthy() -> bool:
            assert process.poll() is None, f"serve ended with {process.returncode}: {self.tail()}"
            if "answers at" not in output.read_text():
                return False
            return self.health().status_code == 200 if ready else True

        self.wait_for(healthy, "serve to answer", START_SECONDS)
        said = output.read_text()
        if shown := re.search(r"bnt_[A-Za-z0-9_-]+", said):
            self.key = shown[0]
        return process, said

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m banatie` with these arguments to its end."""
        return subprocess.run(
            [*self.launcher, sys.executable, "-m", "banatie", *arguments],
            cwd=self.folder,
            env=self.environment | settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )

    def stop(self, process: subprocess.Popen, number: int = signal.SIGTERM) -> float:
        """Send a signal and wait for the exit; how many seconds that took."""
        started = time.monotonic()
        process.send_signal(number)
        process.wait(60)
        return time.monotonic() - started

    def alive(self, *words: str) -> list[int]:
        """The processes of this service that have all `words` on their command line."""
        mark = f"CONNECTION_LOG={self._connection_log}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                ours = mark in (entry / "environ").read_bytes().split(b"\0")
                command = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            except OSError:
                continue
            if ours and all(word in command for word in words):
                found.append(int(entry.name))
        return found

    def close(self) -> list[int]:
        """Stop all processes; the ids of those that outlived the ones started here."""
        self._client.close()
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + 15
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        left = self.alive()
        for process_id in left:
            os.kill(process_id, signal.SIGKILL)
        return left

    # HTTP

    def request(self, method: str, path: str, **options: object) -> httpx.Response:
        """Send one request with the key; the response, whatever its status."""
        headers = {"X-API-Key": self.key, **options.pop("headers", {})}
        return self._client.request(method, path, headers=headers, **options)

    def health(self) -> httpx.Response:
        """The response of /health, or status 599 while no server answers."""
        try:
            return self.request("GET", "/health")
        except httpx.TransportError:
            return httpx.Response(599)

    def post(self, prompt: str, *, prefer: str = "", **fields: object) -> dict:
        """Submit a generation; the accepted record."""
        headers = {"Prefer": prefer} if prefer else {}
        body = {"prompt": prompt, **fields}
        response = self.request("POST", "/api/v1/generations", json=body, headers=headers)
        assert response.status_code == 201, response.text
        return response.json()["data"]

    def paint(self, prompt: str, **fields: object) -> dict:
        """Submit a generation without enhancement and wait for it; the finished record."""
        fields = {"autoEnhance": False, "steps": 2, **fields}
        record = self.post(prompt, prefer="wait=60", **fields)
        assert record["status"] == "success", record
        return record

    def get(self, generation_id: str) -> dict:
        """The record."""
        response = self.request("GET", f"/api/v1/generations/{generation_id}")
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def wait_until_ended(self, generation_id: str, seconds: float = 60) -> dict:
        """The record once it has ended."""
        return self.wait_for_record(
            generation_id, lambda record: record["status"] in ("success", "failed"), seconds
        )

    def wait_until_painting(self, generation_id: str, step: int = 1) -> dict:
        """The record once this step is done."""

        def reached(record: dict) -> bool:
            assert record["status"] in ("pending", "processing"), record
            return record["progress"] is not None and record["progress"]["step"] >= step

        return self.wait_for_record(generation_id, reached)

    def wait_for_record(
        self, generation_id: str, reached: Callable[[dict], bool], seconds: float = 60
    ) -> dict:
        """The record once `reached` is true for it."""
        return self.wait_for(
            lambda: next(filter(reached, [self.get(generation_id)]), None),
            f"generation {generation_id}",
            seconds,
        )

    def picture(self, record: dict) -> bytes:
        """The bytes under the record's URL."""
        response = self._client.get(record["outputImage"]["storageUrl"])
        assert response.status_code == 200
        assert response.headers["Content-Type"] == record["outputImage"]["mimeType"]
        return response.content

    # The folder

    def files(self) -> set[str]:
        """The names of all files in the storage folder, finished or not."""
        return {path.name for path in (self.data / "storage").rglob("*") if path.is_file()}

    def known_files(self) -> set[str]:
        """The names of the files that the records know."""
        return {f"{r['outputImageId']}.png" for r in self.records() if r["outputImageId"]}

    def records(self) -> list[dict]:
        """All records, including soft-deleted ones."""
        records: list[dict] = []
        more = True
        while more:
            query = f"limit=100&offset={len(records)}&includeDeleted=true"
            page = self.request("GET", f"/api/v1/generations?{query}").json()
            records += page["data"]
            more = page["pagination"]["hasMore"]
        return records

    def foreign_addresses(self) -> list[str]:
        """The addresses outside this machine that any of the processes wanted to reach."""
        if not self._connection_log.exists():
            return []
        here = ("127.0.0.1", "::1", "0.0.0.0", "localhost", "None")
        return [line for line in self._connection_log.read_text().split() if line not in here]

    def tail(self) -> str:
        """The end of the log."""
        return self.log.read_text("utf-8", "replace")[-3000:] if self.log.exists() else ""

    def wait_for(self, condition: Callable[[], T], what: str, seconds: float = 60) -> T:
        """Poll until the condition is true and return its value; fails with the log's end."""
        return wait_until(condition, what, seconds, interval=POLL_SECONDS, details=self.tail)


@contextlib.contextmanager
def web_server_only(folder: Path, *arguments: str, **settings: str) -> Iterator[Service]:
    """A running server without models and worker, where no answer waits for an enhancement."""
    nothing = TinyModels(painting=folder / "none", language=folder / "none")
    service = Service(folder, nothing, **{"enhancement__response_wait": "0", **settings})
    try:
        service.serve("--no-worker", *arguments, ready=False)
        yield service
    finally:
        service.close()


def free_port() -> int:
    """A port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
