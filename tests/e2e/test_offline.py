"""Everything works where there is no network at all, and nothing even tries to use one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT, TinyModels

APART = ("unshare", "--map-root-user", "--net")


def test_a_day_without_any_network(tmp_path: Path, models: TinyModels) -> None:
    if shutil.which(APART[0]) is None:
        pytest.skip("there is no `unshare` here (util-linux, on Linux)")
    tried = subprocess.run([*APART, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"this user may make no network namespace here: {tried.stderr.strip()}")
    walk = [sys.executable, "-m", "tests.support.offline_namespace"]
    done = subprocess.run(
        [*APART, *walk, str(tmp_path), str(models.painting), str(models.language)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    # It is cut off, and whoever tries to leave is counted.
    assert told["interfaces"] == ["lo"]
    assert "connected" not in told["own_attempts"]
    assert told["counted_of_own"] >= 2
    # A user's day.
    assert (told["status"], told["warnings"]) == ("success", [])
    assert told["enhanced"]
    assert told["png"]
    assert told["pages"] == [200] * 4
    assert (told["generate_beside"], told["generate_alone"], told["backup"]) == (0, 0, 0)
    assert told["doctor"]
    assert told["picture_stays"]
    assert told["left"] == []
    # And nothing has tried, neither by Python's sockets nor past them.
    assert told["strangers"] == []
    assert told["counted_of_theirs"] == 0
