"""The catalog: names, folders and manifests, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from banatie.errors import ModelBroken, ModelNotFound
from banatie.models.catalog import Catalog
from banatie.models.manifest import Manifest, file_digests, read_manifest, write_manifest
from tests.support.installed_models import states


def test_a_folder_with_a_manifest_is_a_model_with_a_name_and_settings(models_dir: Path) -> None:
    catalog = Catalog(models_dir)
    painter = catalog.painting_model("my-painting")
    assert (painter.name, painter.title, painter.licence) == ("my-painting", "My painting", "MIT")
    assert (painter.steps, painter.guidance_scale) == (4, 0.0)
    assert painter.scheduler == {"class": "EulerDiscreteScheduler"}
    assert painter.sizes["1:1"] == (128, 128)
    # By its path it is the same model.
    assert catalog.painting_model(str(models_dir / "my-painting")) == painter
    assert catalog.language_model("my-language").mode == "free"
    installed = {entry.name for entry in catalog.installed()}
    assert installed == {"my-painting", "my-language", "banatie-small"}
    assert {"sdxl-turbo", "my-painting"} <= {entry.name for entry in catalog.entries()}


def test_sizes_of_a_manifest_count(models_dir: Path) -> None:
    folder = models_dir / "my-painting"
    manifest = read_manifest(folder)
    settings = {**manifest.settings, "sizes": {"1:1": [64, 64]}}
    write_manifest(folder, dataclasses.replace(manifest, settings=settings))
    assert Catalog(models_dir).painting_model("my-painting").sizes == {"1:1": (64, 64)}


@pytest.mark.parametrize(
    "settings",
    [
        {"sizes": {"1:1": 64}},
        {"sizes": 3},
        {"steps": "many"},
        {"scheduler": "Euler"},
        {"steps": {}},
    ],
)
def test_settings_that_make_no_sense_are_named(models_dir: Path, settings: dict) -> None:
    folder = models_dir / "my-painting"
    write_manifest(folder, dataclasses.replace(read_manifest(folder), settings=settings))
    with pytest.raises(
        ModelBroken, match=r"settings of my-painting, in its banatie\.json, are invalid"
    ):
        Catalog(models_dir).painting_model("my-painting")


def test_a_model_of_another_kind_is_named(models_dir: Path) -> None:
    catalog = Catalog(models_dir)
    with pytest.raises(ModelBroken, match=r"my-language is a language model.*set painting\.model"):
        catalog.painting_model("my-language")
    with pytest.raises(ModelBroken, match="my-painting is a painting model"):
        catalog.language_model("my-painting")


def test_a_manifest_that_cannot_be_read_hides_no_other_model(models_dir: Path) -> None:
    (models_dir / "my-painting" / "banatie.json").write_text("{")
    entries = {entry.name: entry for entry in Catalog(models_dir).installed()}
    assert "cannot be read" in entries["my-painting"].problem
    assert entries["my-language"].problem == ""
    with pytest.raises(ModelBroken, match="cannot be read"):
        states(entries["my-painting"])


def test_an_unknown_name_is_answered_with_those_that_are_known(models_dir: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no model is called 'x'; .*sdxl-turbo.*my-language"):
        Catalog(models_dir).entry("x")


def test_loras_are_found_by_their_names(models_dir: Path) -> None:
    catalog = Catalog(models_dir)
    with pytest.raises(ModelNotFound, match=r"no LoRA called 'ink' is .*; installed are: none"):
        catalog.lora("ink")
    folder = models_dir / "ink"
    folder.mkdir()
    (folder / "ink.safetensors").write_bytes(b"weights")
    write_manifest(folder, Manifest("lora", "ink", "Ink", "MIT", "ink", {}, file_digests(folder)))
    assert catalog.loras() == {"ink": folder / "ink.safetensors"}
    assert catalog.lora("ink") == folder / "ink.safetensors"
    for name in ("my-painting", "../ink", "ink/ink.safetensors"):
        with pytest.raises(ModelNotFound, match="installed are: ink"):
            catalog.lora(name)
    broken = models_dir / "wash"
    broken.mkdir()
    write_manifest(broken, Manifest("lora", "wash", "Wash", "MIT", "wash"))
    assert catalog.loras() == {"ink": folder / "ink.safetensors"}
    with pytest.raises(ModelBroken, match="weights of one LoRA"):
        catalog.lora("wash")
