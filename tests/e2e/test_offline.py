"""Everything works without any network, and nothing even tries to use one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT, TinyModels

WITHOUT_NETWORK = ("unshare", "--map-root-user", "--net")


def test_a_day_without_any_network(tmp_path: Path, models: TinyModels) -> None:
    if shutil.which(WITHOUT_NETWORK[0]) is None:
        pytest.skip("there is no `unshare` here (util-linux, on Linux)")
    tried = subprocess.run([*WITHOUT_NETWORK, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"this user may make no network namespace here: {tried.stderr.strip()}")
    script = [sys.executable, "-m", "tests.support.offline_namespace"]
    done = subprocess.run(
        [*WITHOUT_NETWORK, *script, str(tmp_path), str(models.painting), str(models.language)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    observed = json.loads(done.stdout)
    # The namespace has no way out, and attempts to leave are counted.
    assert observed["interfaces"] == ["lo"]
    assert "connected" not in observed["own_attempts"]
    assert observed["own_packets_without_route"] >= 2
    # Everything works.
    assert (observed["status"], observed["warnings"]) == ("success", [])
    assert observed["enhanced"]
    assert observed["png"]
    assert observed["pages"] == [200] * 4
    assert (observed["generate_beside"], observed["generate_alone"], observed["backup"]) == (
        0,
        0,
        0,
    )
    assert observed["doctor"]
    assert observed["picture_stays"]
    assert observed["left"] == []
    # No process has tried to leave, neither by Python's sockets nor past them.
    assert observed["foreign_addresses"] == []
    assert observed["packets_without_route"] == 0
