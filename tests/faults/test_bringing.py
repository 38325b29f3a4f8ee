"""Models that come to a disk which is too small for them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from banatie.errors import ModelError
from banatie.inference import room
from banatie.inference.bring import bring, order_repository
from banatie.inference.catalog import Catalog
from banatie.inference.hub import Hub
from banatie.inference.library import export, import_archive
from banatie.inference.manifest import facts_of
from tests.e2e.service import TinyModels
from tests.faults.disk import Disk
from tests.loopback_hub import LoopbackHub, Repository, serving


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """With room for half of the tiny pipeline, which nobody asks beforehand."""
    monkeypatch.setattr(room, "SPARE_BYTES", -(10**12))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    small = Disk(tmp_path / "small", "400k")
    yield small
    small.close()


def enlarge(disk: Disk) -> None:
    command = [*disk.launcher, "mount", "-o", "remount,size=4m", disk.folder.name]
    subprocess.run(command, check=True)


def test_a_full_disk_stops_a_model_that_goes_on_when_there_is_room(
    disk: Disk, models: TinyModels
) -> None:
    with serving(LoopbackHub({"acme/tiny": Repository.of(models.painting)})) as served:
        hub = Hub(served.url, lambda _: None)
        order = order_repository(hub, "acme/tiny", "main", disk.folder)
        with pytest.raises(ModelError, match=r"the disk of .* is full; make room and run"):
            bring(order, hub, print)
        assert [path for path in disk.folder.iterdir() if not path.name.startswith(".")] == []
        enlarge(disk)
        before = len(served.asked)
        folder = bring(order, hub, print)
        again = [asked for asked in served.asked[before:] if "/resolve/" in asked.path]
    assert facts_of(folder) == facts_of(models.painting)
    assert len(again) < len(facts_of(folder)) / 2


def test_a_full_disk_leaves_nothing_of_an_archive(
    disk: Disk, models: TinyModels, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "banatie-small").symlink_to(models.painting)
    entry = Catalog(tmp_path / "models").entry("banatie-small")
    with pytest.raises(ModelError, match=r"cannot be written: No space left"):
        export(entry, disk.folder / "stick.tar", print)
    assert list(disk.folder.iterdir()) == []
    file = tmp_path / "stick.tar"
    export(entry, file, print)
    with pytest.raises(ModelError, match=r"cannot be brought in: .*No space left"):
        import_archive(file, disk.folder, print)
    assert [path for path in disk.folder.iterdir() if path.is_dir()] == []
    enlarge(disk)
    assert import_archive(file, disk.folder, print).files == facts_of(models.painting)
