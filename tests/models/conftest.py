"""What the tests of several modules share: a models folder with two tiny installed models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from banatie.models.catalog import Catalog
from banatie.models.manifest import Manifest, file_digests, write_manifest
from banatie.models.types import Entry

SETTINGS = {"steps": 4, "guidance_scale": 0.0, "scheduler": {"class": "EulerDiscreteScheduler"}}


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_sdxl: Path, tiny_language_model: Path
) -> Path:
    """A models folder with a pipeline and a language model that have manifests."""
    folder = tmp_path_factory.mktemp("made")
    for kind, tiny in (("painting", tiny_sdxl), ("language", tiny_language_model)):
        model = Path(shutil.copytree(tiny, folder / f"my-{kind}"))
        settings = SETTINGS if kind == "painting" else {"mode": "free"}
        digests = file_digests(model)
        title, origin = f"My {kind}", "acme/mine@c0ffee"
        write_manifest(model, Manifest(kind, model.name, title, "MIT", origin, settings, digests))
    return folder


@pytest.fixture
def models_dir(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "models")


@pytest.fixture
def catalog(models_dir: Path) -> Catalog:
    return Catalog(models_dir)


@pytest.fixture
def painting(catalog: Catalog) -> Entry:
    return catalog.entry("my-painting")


@pytest.fixture
def language(catalog: Catalog) -> Entry:
    return catalog.entry("my-language")
