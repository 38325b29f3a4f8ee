"""IP-Adapters: imported, downloaded and chosen whole, or refused with the reason."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from banatie.errors import ModelBroken, ModelError, ModelNotFound
from banatie.models.archive import export_archive
from banatie.models.catalog import Catalog
from banatie.models.download import download
from banatie.models.download_plan import plan_entry
from banatie.models.huggingface import Hub
from banatie.models.import_file import import_model
from banatie.models.ip_adapter import ADAPTER_FILE, IMAGE_ENCODER
from banatie.models.manifest import read_manifest, sha256_of
from tests.support.installed_models import states
from tests.support.loopback_hub import LoopbackHub, Repository, serving
from tests.support.tiny_ip_adapter import make_tiny_image_encoder, make_tiny_ip_adapter
from tests.support.tiny_models import edit_json


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture(params=[False, True], ids=["plain", "plus"])
def file(request: pytest.FixtureRequest, tiny_sdxl: Path, tmp_path: Path) -> Path:
    """As in a copy of h94/IP-Adapter, where another encoder lies nearer."""
    repository = tmp_path / "IP-Adapter"
    (repository / "sdxl_models").mkdir(parents=True)
    other = make_tiny_image_encoder(repository / "sdxl_models" / IMAGE_ENCODER, projection=40)
    edit_json(other / "config.json", hidden_size=48)
    make_tiny_image_encoder(repository / "models" / IMAGE_ENCODER)
    name = "ip-adapter_tiny.safetensors"
    return make_tiny_ip_adapter(
        repository / "sdxl_models" / name, tiny_sdxl, detailed=request.param
    )


def test_a_file_is_imported_with_the_encoder_that_it_needs(
    file: Path, models: Path, tiny_sdxl: Path, tmp_path: Path
) -> None:
    manifest = import_model(file, models, print, configs=tiny_sdxl)
    assert (manifest.kind, manifest.name) == ("ip-adapter", "ip-adapter_tiny")
    assert manifest.original_sha256 == sha256_of(file)
    assert set(manifest.files) == {
        ADAPTER_FILE,
        f"{IMAGE_ENCODER}/config.json",
        f"{IMAGE_ENCODER}/model.safetensors",
    }
    assert read_manifest(models / manifest.name) == manifest
    catalog = Catalog(models)
    entry = catalog.entry(manifest.name)
    assert states(entry) == {}
    # A model's archive brings it to another machine.
    export_archive(entry, tmp_path / "adapter.tar", print)
    assert import_model(tmp_path / "adapter.tar", tmp_path / "other", print) == manifest


def test_the_encoder_may_lie_elsewhere(file: Path, models: Path, tiny_sdxl: Path) -> None:
    repository = file.parents[1]
    encoder = (repository / "models" / IMAGE_ENCODER).rename(repository / "encoder")
    with pytest.raises(ModelBroken, match=r"needs the CLIP image encoder .* --image-encoder"):
        import_model(file, models, print, configs=tiny_sdxl)
    wrong = repository / "sdxl_models" / IMAGE_ENCODER
    with pytest.raises(ModelBroken, match=r"gives embeddings 4[08] wide, but the IP-Adapter reads"):
        import_model(file, models, print, configs=tiny_sdxl, image_encoder=wrong)
    assert not models.exists()
    import_model(file, models, print, configs=tiny_sdxl, image_encoder=encoder)
    assert (models / "ip-adapter_tiny" / IMAGE_ENCODER / "model.safetensors").is_file()


def test_what_is_no_whole_adapter_for_sdxl_is_refused(
    file: Path, models: Path, tiny_sdxl: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelBroken, match="is an IP-Adapter for a model that reads embeddings 32"):
        import_model(file, models, print)
    tensors = load_file(file)
    projection = next(name for name in tensors if name.startswith("image_proj.proj"))
    for changes, reason in (
        ({projection: None}, "not all of its tensors"),
        ({"ip_adapter.1.to_k_ip.weight": None}, "for another UNet"),
        ({"unknown": torch.ones(1)}, "not all of its tensors"),
        ({"ip_adapter.0.to_k_lora.down.weight": torch.ones(1, 1)}, "for faces"),
    ):
        changed = {name: each for name, each in (tensors | changes).items() if each is not None}
        save_file(changed, file)
        with pytest.raises(ModelBroken, match=reason):
            import_model(file, models, print, configs=tiny_sdxl)
    for path, options in (
        (file, {"prediction": "v"}),
        (tiny_sdxl, {"image_encoder": tmp_path}),
    ):
        save_file(tensors, file)
        with pytest.raises(ModelError, match=r"--(prediction|image-encoder) is for"):
            import_model(path, models, print, configs=tiny_sdxl, **options)
    assert not models.exists()


def test_the_first_that_fits_the_model_is_chosen_or_the_named_one(
    file: Path, models: Path, tiny_sdxl: Path
) -> None:
    shutil.copytree(tiny_sdxl, models / "tiny")
    catalog = Catalog(models)
    model = catalog.painting_model("tiny")
    assert catalog.choose_ip_adapter("auto", model) is None
    for name in ("b", "a"):
        import_model(file, models, print, name=name, configs=tiny_sdxl)
    assert catalog.choose_ip_adapter("auto", model).name == "a"
    assert catalog.choose_ip_adapter("b", model).name == "b"
    assert catalog.choose_ip_adapter(str(models / "b"), model).name == "b"
    assert catalog.choose_ip_adapter("off", model) is None
    (models / "a" / IMAGE_ENCODER / "config.json").unlink()
    assert catalog.choose_ip_adapter("auto", model).name == "b"
    with pytest.raises(ModelBroken, match=r"config\.json cannot be read"):
        catalog.choose_ip_adapter("a", model)
    with pytest.raises(ModelNotFound, match="neither a folder nor a model"):
        catalog.choose_ip_adapter("c", model)
    with pytest.raises(ModelNotFound, match="banatie models pull ip-adapter-sdxl-vit-h"):
        catalog.choose_ip_adapter("ip-adapter-sdxl-vit-h", model)
    edit_json(models / "tiny" / "unet" / "config.json", cross_attention_dim=2048)
    assert catalog.choose_ip_adapter("auto", model) is None
    with pytest.raises(ModelBroken, match="reads 2048; set painting"):
        catalog.choose_ip_adapter("b", model)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    # Other tests of this process may have told the library to stay offline, for good.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/nowhere")
    with serving(LoopbackHub()) as hub:
        yield hub


@pytest.mark.parametrize("number", [0, 1])
def test_those_of_the_catalog_are_downloaded_whole(
    file: Path, models: Path, served: LoopbackHub, number: int
) -> None:
    """With tiny contents, whose hashes are not the catalog's."""
    entry = Catalog(models).entry(Catalog(models).ip_adapters[number].name)
    plan = plan_entry(entry)
    encoder = file.parents[1] / "models" / IMAGE_ENCODER
    contents = {ADAPTER_FILE: file} | {
        f"{IMAGE_ENCODER}/{each.name}": each for each in encoder.iterdir()
    }
    parts = []
    for part in plan.repositories:
        repository = served.repositories.setdefault(part.repository, Repository({}, part.revision))
        for name, destination in part.destinations.items():
            repository.files[name] = contents[destination].read_bytes()
        parts.append(dataclasses.replace(part, digests={}))
    models.mkdir()
    folder = download(dataclasses.replace(plan, repositories=tuple(parts)), Hub(served.url), print)
    assert states(Catalog(models).entry(folder.name)) == {}
    assert Catalog(models).ip_adapter(folder.name) == entry.model
