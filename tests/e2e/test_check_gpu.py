"""`scripts/check-gpu`, rehearsed on a CPU with tiny models, so that its day on a card is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT

GROUPS = ("right", "fast", "service", "fits")


def check_gpu(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "scripts" / "check-gpu"), "--tiny", "--out", str(out), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of results and the output of a whole run, without compiling."""
    folder = tmp_path_factory.mktemp("check")
    (folder / "scratch").mkdir()
    scratch = ("--scratch", str(folder / "scratch"))
    process = check_gpu(folder / "out", "--only", ",".join(GROUPS), *scratch)
    assert process.returncode == 0, process.stdout + process.stderr
    assert list((folder / "scratch").iterdir()) == [], "the model is left behind"
    return folder / "out", process.stdout


def test_every_step_of_the_check_is_done(done: tuple[Path, str]) -> None:
    found = [json.loads(line) for line in (done[0] / "results.jsonl").read_text().splitlines()]
    assert [line for line in found if {"error", "wrong", "skipped"} & set(line)] == []
    steps = {(line["group"], line["step"]) for line in found}
    assert {group for group, _ in steps} == {"model", *GROUPS}
    assert steps >= {
        ("right", "the same bytes twice"),
        ("right", "a batch of 4"),
        ("right", "cancelled in a step"),
        ("right", "LoRA on and off"),
        ("fast", "part: vae"),
        ("fast", "batch of 2"),
        ("service", "8 clients, 2 steps"),
        ("fits", "a card of 8 GB"),
    }


def test_the_check_prints_one_table_of_short_cells(done: tuple[Path, str]) -> None:
    folder, output = done
    table = (folder / "table.md").read_text()
    assert output.endswith(table)
    head, _, *rows = table.splitlines()
    assert head == "| | measured | none |"
    assert len(rows) == len(json.loads((folder / "summary.json").read_text()))
    for row in rows:
        assert len(row.split(" | ")) == 3
        assert "object at 0x" not in row
        assert len(row) < 240


def test_a_group_without_time_is_named(tmp_path: Path) -> None:
    process = check_gpu(tmp_path, "--only", "fits", "--seconds", "1")
    assert process.returncode == 1
    assert process.stdout.endswith(
        "| model | the whole group | skipped no time left |\n"
        "| fits | the whole group | skipped no time left |\n"
    )


def test_an_unknown_group_is_refused(tmp_path: Path) -> None:
    process = check_gpu(tmp_path, "--only", "right,nonsense")
    assert process.returncode == 2
    assert "no group nonsense" in process.stderr
