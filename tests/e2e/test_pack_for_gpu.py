"""`scripts/pack-for-gpu`, rehearsed: packed here, run where there is torch and no network."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.support.service import ROOT

SCRIPT = ROOT / "scripts" / "pack-for-gpu"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
WITHOUT_NETWORK = ("unshare", "--map-root-user", "--net")


def packages() -> list[str]:
    """The packages that the script packs."""
    listed = re.search(r'^packages="(.*?)"$', SCRIPT.read_text(), re.DOTALL | re.MULTILINE)
    assert listed
    return listed[1].split()


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def files_of_packed_packages() -> set[str]:
    """What the packed packages have put into this environment's site-packages."""
    return {
        file.parts[0]
        for package in packages()
        for file in distribution(package).files or []
        if file.parts[0] not in ("..", "__pycache__")
    }


@pytest.mark.parametrize("package", packages())
def test_a_packed_package_has_one_pin(package: str) -> None:
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert [normalized(pin) for pin in pins].count(normalized(package)) == 1


def test_the_list_has_what_the_check_imports_and_torch_machines_lack() -> None:
    assert {"diffusers", "transformers", "huggingface-hub", "litestar", "granian"} <= {*packages()}
    assert "torch" not in packages()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree as it travels, with its pack."""
    tree = tmp_path_factory.mktemp("pack") / "tree"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("this is no git checkout, whose files travel")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    subprocess.run(["git", "init", "-q", str(tree)], check=True)
    # Compressed quickly instead of well.
    quickly = {"XZ_OPT": "-1"}
    done = subprocess.run(
        [str(tree / "scripts" / "pack-for-gpu"), "--python", PYTHON],
        env=os.environ | quickly | {"PYTHON": sys.executable, "PIP_RETRIES": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if "Retrying" in done.stderr or "NewConnectionError" in done.stderr:
        pytest.skip(f"pip reaches no package index here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stdout + done.stderr
    return tree


def test_the_pack_runs_without_network_where_only_torch_is(packed: Path, tmp_path: Path) -> None:
    if shutil.which(WITHOUT_NETWORK[0]) is None:
        pytest.skip("there is no `unshare` here (util-linux, on Linux)")
    if subprocess.run([*WITHOUT_NETWORK, "true"], capture_output=True).returncode:
        pytest.skip("this user may make no network namespace here")
    # A machine with torch and what comes with it: this environment without what is packed, and
    # without Banatie, so that both must come from the pack and the copied tree.
    machine = tmp_path / "machine"
    machine.mkdir()
    torch = importlib.util.find_spec("torch")
    assert torch is not None
    for entry in Path(str(torch.origin)).parents[1].iterdir():
        if entry.suffix != ".pth" and "banatie" not in entry.name:
            (machine / entry.name).symlink_to(entry)
    for name in files_of_packed_packages():
        (machine / name).unlink(missing_ok=True)
    base = Path(sys.base_prefix) / "bin" / f"python{PYTHON}"
    done = subprocess.run(
        [*WITHOUT_NETWORK, "bash", ".gpu-pack/run", "--tiny", "--only", "right"],
        cwd=packed,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(machine),
            "PYTHON": str(base),
            "BANATIE_SITE": str(tmp_path / "site"),
            "OUT": str(tmp_path / "out"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| right | the same bytes twice | same: yes" in done.stdout
    assert (tmp_path / "out" / "table.md").is_file()
