"""The OpenAPI document against the running server: schemathesis makes up requests, good and bad.

Nothing is answered with a 5xx, everything as documented, what the document allows is accepted and
what it forbids refused, and nothing works without a key that asks for one. The same requests each
time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from banatie.store.database import Database
from banatie.store.workers import Workers, WorkerState
from tests.support.api_server import add_lora
from tests.support.service import ROOT, Service, web_server_only

ENDLESS = "followGeneration"
"""Where a generation is found, its events end with it; with nobody to paint it, never."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with web_server_only(tmp_path_factory.mktemp("fuzzed")) as running:
        for number in range(4):
            add_lora(running.folder / "models", f"lora-{number}")
        database = Database(running.data / "banatie.db")
        # A worker by its word alone, which holds for as long as the tests take.
        ready = WorkerState(id="w", pid=1, state="ready", device="cpu", painting_model="none")
        Workers(database).report(ready, time.time_ns() // 1_000_000 + 3_600_000)
        database.close()
        yield running
    assert " ERROR " not in running.log.read_text()


@pytest.fixture
def fuzz(service: Service, tmp_path: Path) -> Callable[..., None]:
    def fuzz(*options: str, examples: int, key: bool = True) -> None:
        command = [Path(sys.executable).with_name("schemathesis"), "run"]
        command += [f"{service.url}/openapi.json", "--generation-deterministic", "--no-color"]
        command += ["--max-examples", str(examples), "--request-timeout", "30"]
        if key:
            command += ["--header", f"X-API-Key: {service.key}"]
        ended = subprocess.run(
            [*command, *options],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "PYTHONPATH": str(ROOT),
                "SCHEMATHESIS_HOOKS": "tests.support.fuzz_hooks",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr

    return fuzz


def test_whoever_has_a_key_finds_everything_as_documented(fuzz: Callable[..., None]) -> None:
    # The key is added to every request, also to those that were to be without.
    options = ["--exclude-operation-id", ENDLESS, "--exclude-checks", "missing_required_header"]
    fuzz(*options, examples=15)


def test_the_events_of_what_is_not_there_are_answered_as_documented(
    fuzz: Callable[..., None],
) -> None:
    options = ["--include-operation-id", ENDLESS, "--phases", "examples,coverage,fuzzing"]
    fuzz(*options, examples=5)


def test_whoever_has_no_key_finds_everything_as_documented(fuzz: Callable[..., None]) -> None:
    # To nobody is valid data accepted, nor invalid data refused for what it is.
    about_data = "positive_data_acceptance,negative_data_rejection"
    options = ["--exclude-checks", about_data, "--phases", "examples,fuzzing"]
    fuzz(*options, examples=5, key=False)
