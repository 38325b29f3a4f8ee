"""Installed models: their size, verification and removal."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from banatie.errors import ModelBroken, ModelError, ModelNotFound
from banatie.models.catalog import Catalog
from banatie.models.manage import remove, size_of
from banatie.models.types import Entry
from tests.support.installed_models import flip_last_bit, states

UNET = "unet/diffusion_pytorch_model.safetensors"


def test_the_size_of_a_model_is_that_of_its_files_or_of_what_there_is_to_fetch(
    models_dir: Path, painting: Entry
) -> None:
    files = [path for path in painting.folder.rglob("*") if path.is_file()]
    assert size_of(painting) == sum(path.stat().st_size for path in files)
    assert size_of(Catalog(models_dir).entry("sdxl-turbo")) > 6e9


def test_each_file_is_compared_with_the_manifest(painting: Entry) -> None:
    assert states(painting) == {}
    flip_last_bit(painting.folder / UNET)
    (painting.folder / "vae" / "config.json").unlink()
    (painting.folder / "vae" / "notes.txt").write_text("mine")
    expected = {UNET: "changed", "vae/config.json": "missing", "vae/notes.txt": "extra"}
    assert states(painting) == expected


def test_without_a_manifest_only_the_headers_tell(models_dir: Path) -> None:
    folder = models_dir / "banatie-small"
    (models_dir / "my-painting").rename(folder)
    (folder / "banatie.json").unlink()
    entry = Catalog(models_dir).entry("banatie-small")
    assert set(states(entry).values()) == {"unknown"}
    (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-1])
    with pytest.raises(ModelBroken, match="is incomplete"):
        states(entry)


def test_what_is_not_here_cannot_be_verified(models_dir: Path) -> None:
    with pytest.raises(ModelNotFound, match="run: banatie models pull sdxl-turbo"):
        states(Catalog(models_dir).entry("sdxl-turbo"))


def test_a_model_goes_as_a_whole(catalog: Catalog, painting: Entry, models_dir: Path) -> None:
    size = size_of(painting)
    left = models_dir / ".my-painting.installing"
    left.mkdir()
    assert remove(catalog, "my-painting") == size
    assert not painting.folder.exists()
    assert not left.exists()
    assert [path.name for path in models_dir.iterdir() if path.is_dir()] == ["my-language"]
    with pytest.raises(ModelNotFound):
        remove(catalog, "my-painting")


def test_what_an_interrupted_attempt_left_goes_too(catalog: Catalog, models_dir: Path) -> None:
    left = models_dir / ".sdxl-turbo.installing" / "parts"
    left.mkdir(parents=True)
    assert remove(catalog, "sdxl-turbo") == 0
    assert not left.parent.exists()


def test_of_a_link_only_the_link_goes(catalog: Catalog, painting: Entry, tmp_path: Path) -> None:
    elsewhere = painting.folder.rename(tmp_path / "elsewhere")
    painting.folder.symlink_to(elsewhere)
    assert remove(catalog, "my-painting") == 0
    assert not painting.folder.exists()
    assert (elsewhere / UNET).is_file()


def test_the_bundled_model_stays(catalog: Catalog, models_dir: Path) -> None:
    (models_dir / "my-painting").rename(models_dir / "banatie-small")
    with pytest.raises(ModelError, match=r"banatie-small is bundled .* cannot be removed"):
        remove(catalog, "banatie-small")
    assert (models_dir / "banatie-small" / UNET).is_file()


def test_nothing_is_removed_while_it_is_installed(
    catalog: Catalog, painting: Entry, models_dir: Path
) -> None:
    with (
        FileLock(models_dir / ".my-painting.lock"),
        pytest.raises(ModelError, match="another process is installing or removing my-painting"),
    ):
        remove(catalog, "my-painting")
    assert states(painting) == {}
