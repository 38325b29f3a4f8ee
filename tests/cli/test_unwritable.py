"""Folders that cannot be written: each command says so in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Root may write everywhere; without these capabilities the permissions count for root, too.
AS_A_USER = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
)

pytestmark = pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root may write everywhere"
)


def banatie(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*AS_A_USER, sys.executable, "-m", "banatie", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    """A folder like `/` for a user."""
    folder = tmp_path / "root"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


COMMANDS: list[Sequence[str]] = [
    ("generate", "a cat"),
    ("keys", "create", "--name", "k"),
    ("keys", "list"),
    ("keys", "revoke", "k"),
    ("projects", "create", "p"),
    ("projects", "list"),
    ("projects", "set", "p", "--no-new-scopes"),
    ("migrate",),
    ("serve",),
    ("worker",),
    ("backup", "copy.tar"),
    ("models", "use", "banatie-small"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_in_a_folder_that_cannot_be_written_says_so_in_one_line(
    unwritable: Path, command: Sequence[str]
) -> None:
    ended = banatie(unwritable, *command)
    assert ended.returncode in (1, 2)
    assert ended.stdout == ""
    assert ended.stderr.startswith("banatie: ")
    assert ended.stderr.count("\n") == 1
    assert "unexpected error" not in ended.stderr


@pytest.mark.parametrize("command", COMMANDS[:5], ids=" ".join)
def test_the_folder_and_the_setting_are_named(unwritable: Path, command: Sequence[str]) -> None:
    ended = banatie(unwritable, *command)
    assert f"{unwritable}/data cannot be created (Permission denied)" in ended.stderr
    assert "storage.data_dir" in ended.stderr


@pytest.mark.parametrize("command", [("keys", "list"), ("generate", "a cat"), ("migrate",)])
def test_settings_that_cannot_be_read_are_named(tmp_path: Path, command: Sequence[str]) -> None:
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "config.toml").chmod(0)
    ended = banatie(tmp_path, *command)
    says = "banatie: config.toml cannot be read: Permission denied\n"
    assert (ended.returncode, ended.stderr) == (2, says)
