"""The `openai` package for JavaScript, where Node.js and npm are there to install it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.support.service import Service

PACKAGE = "openai@6.49.0"
PROGRAM = Path(__file__).with_name("openai_client.mjs")
INSTALL_SECONDS = 120


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, and the program beside it."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("Node.js and npm are not installed")
    folder = tmp_path_factory.mktemp("javascript")
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    if done.returncode:
        pytest.skip(f"npm cannot install {PACKAGE}: {done.stderr.strip()[-200:]}")
    shutil.copy(PROGRAM, folder)
    return folder


def test_a_program_in_javascript(project: Path, service: Service, tmp_path: Path) -> None:
    source = tmp_path / "source.png"
    Image.new("RGB", (64, 64), "red").save(source)
    done = subprocess.run(
        ["node", PROGRAM.name, f"{service.url}/v1", service.key, str(source)],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    pictures = [base64.b64decode(each) for each in got["pictures"]]
    assert [each[:4] for each in pictures] == [b"\x89PNG"] * 2
    assert pictures[0] != pictures[1]
    assert got["events"] == ["image_generation.completed"]
    assert (got["edited"], got["models"]) == (1, ["tiny-sdxl"])
    assert got["error"] == [400, "background", "invalid_value"]
    assert got["aborted"] is True
    record = service.records()[0]
    assert record["prompt"] == "left alone"
    ended = service.wait_until_ended(record["id"])
    assert ended["errorMessage"] == "Cancelled"
