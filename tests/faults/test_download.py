"""Models that are installed on a disk which is too small for them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from banatie.errors import ModelError
from banatie.models import disk_space
from banatie.models.archive import export_archive, import_archive
from banatie.models.catalog import Catalog
from banatie.models.download import download
from banatie.models.download_plan import plan_repository
from banatie.models.huggingface import Hub
from banatie.models.manifest import file_digests
from tests.support.loopback_hub import LoopbackHub, Repository, serving
from tests.support.service import TinyModels
from tests.support.small_disk import Disk


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """With room for half of the tiny pipeline, which nobody asks beforehand."""
    monkeypatch.setattr(disk_space, "SPARE_BYTES", -(10**12))
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
    with serving(LoopbackHub({"acme/tiny": Repository.from_folder(models.painting)})) as served:
        hub = Hub(served.url, lambda _: None)
        plan = plan_repository(hub, "acme/tiny", "main", disk.folder)
        with pytest.raises(ModelError, match=r"the disk of .* is full; free some space and run"):
            download(plan, hub, print)
        assert [path for path in disk.folder.iterdir() if not path.name.startswith(".")] == []
        enlarge(disk)
        before = len(served.requests)
        folder = download(plan, hub, print)
        again = [request for request in served.requests[before:] if "/resolve/" in request.path]
    assert file_digests(folder) == file_digests(models.painting)
    assert len(again) < len(file_digests(folder)) / 2


def test_a_full_disk_leaves_nothing_of_an_archive(
    disk: Disk, models: TinyModels, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "sdxl-turbo").symlink_to(models.painting)
    entry = Catalog(tmp_path / "models").entry("sdxl-turbo")
    with pytest.raises(ModelError, match=r"cannot be written: No space left"):
        export_archive(entry, disk.folder / "stick.tar", print)
    assert list(disk.folder.iterdir()) == []
    file = tmp_path / "stick.tar"
    export_archive(entry, file, print)
    with pytest.raises(ModelError, match=r"the disk of .* is full; free some space and run"):
        import_archive(file, disk.folder, print)
    assert [path for path in disk.folder.iterdir() if path.is_dir()] == []
    enlarge(disk)
    assert import_archive(file, disk.folder, print).files == file_digests(models.painting)
