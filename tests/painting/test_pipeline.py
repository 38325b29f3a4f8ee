"""Loading a pipeline: its files, its checksum, and folders that are broken."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from banatie.errors import ModelBroken, ModelNotFound
from banatie.models.catalog import Catalog
from banatie.painting.painter import Painter
from tests.support.tiny_models import edit_json
from tests.support.tiny_painter import FULL, JOB, LONG, load, paint, use_scheduler


def test_the_fingerprint_is_that_of_the_unets_file(painter: Painter, original: Path) -> None:
    weights = (original / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert painter.fingerprint == hashlib.sha256(weights).hexdigest()[:10]
    assert painter.fingerprint == painter.fingerprint


def test_half_precision_files_are_read_where_there_are_no_others(
    painter: Painter, folder: Path
) -> None:
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        for file in (folder / name).glob("*.safetensors"):
            half = {key: value.half() for key, value in load_file(file).items()}
            save_file(half, file.with_suffix(".fp16.safetensors"), {"format": "pt"})
            # One model keeps both, as folders in the wild do.
            if name != "vae":
                file.unlink()
    loaded = load(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    assert loaded.fingerprint == hashlib.sha256(weights.read_bytes()).hexdigest()[:10]
    difference = np.frombuffer(paint(loaded), np.uint8).astype(int) - np.frombuffer(
        paint(painter), np.uint8
    )
    assert np.abs(difference).mean() < 8


def test_a_folder_from_the_catalog_can_be_painted_with(original: Path, tmp_path: Path) -> None:
    model = Catalog(tmp_path).painting_model(str(original))
    width, height = model.sizes["21:9"]
    image = Painter.load(model, FULL).paint(
        dataclasses.replace(JOB, width=width, height=height), lambda step, steps: None
    )
    assert image.size == (192, 80)


def test_loading_and_painting_open_no_socket(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a socket was opened: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert paint(load(original))


def test_nothing_is_written_to_the_terminal(
    original: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paint(load(original), prompt=LONG)
    assert capfd.readouterr() == ("", "")


class TestBrokenFolders:
    def refusal(self, folder: Path, error: type[Exception] = ModelBroken) -> str:
        with pytest.raises(error) as caught:
            load(folder)
        return str(caught.value)

    def test_no_folder(self, tmp_path: Path) -> None:
        missing = tmp_path / "nowhere"
        assert str(missing) in self.refusal(missing, ModelNotFound)

    def test_no_index(self, folder: Path) -> None:
        (folder / "model_index.json").unlink()
        assert "model_index.json is missing" in self.refusal(folder)

    @pytest.mark.parametrize(
        "content", ["{", "[]", '{"_class_name": ["pipeline", "Mine"]}', "\xff"]
    )
    def test_an_index_that_is_none(self, folder: Path, content: str) -> None:
        (folder / "model_index.json").write_text(content, "latin-1")
        assert "model_index.json" in self.refusal(folder)

    def test_another_architecture(self, folder: Path) -> None:
        edit_json(folder / "model_index.json", _class_name="StableDiffusionPipeline")
        message = self.refusal(folder)
        assert "StableDiffusionPipeline" in message
        assert "StableDiffusionXLPipeline" in message

    def test_another_architecture_in_one_place(self, folder: Path) -> None:
        edit_json(folder / "model_index.json", unet=["diffusers", "SD3Transformer2DModel"])
        assert "unet is a SD3Transformer2DModel" in self.refusal(folder)

    @pytest.mark.parametrize("entry", [None, [None, None], "CLIPTokenizer"])
    def test_a_component_that_the_index_leaves_out(self, folder: Path, entry: object) -> None:
        edit_json(folder / "model_index.json", tokenizer_2=entry)
        assert "tokenizer_2" in self.refusal(folder)

    @pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "tokenizer_2", "scheduler"])
    def test_a_component_that_is_missing(self, folder: Path, name: str) -> None:
        shutil.rmtree(folder / name)
        assert f"{folder / name} is missing; copy" in self.refusal(folder)

    @pytest.mark.parametrize("keep", [0, 4, 1000, -1])
    def test_half_a_file(self, folder: Path, keep: int) -> None:
        file = folder / "text_encoder_2" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:keep])
        message = self.refusal(folder)
        assert str(file) in message
        assert "copy it again" in message

    def test_weights_in_a_format_that_can_run_code(self, folder: Path) -> None:
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()
        assert f"{folder / 'unet'} holds no weights in the safetensors format" in self.refusal(
            folder
        )

    @pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "text_encoder_2"])
    def test_weights_that_lack_a_tensor(self, folder: Path, name: str) -> None:
        file = next((folder / name).glob("*.safetensors"))
        weights = load_file(file)
        lost = sorted(weights)[3]
        del weights[lost]
        save_file(weights, file, {"format": "pt"})
        message = self.refusal(folder)
        assert str(file) in message
        assert lost in message

    def test_weights_of_another_shape(self, folder: Path) -> None:
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        weights["conv_in.weight"] = torch.zeros(8, 9, 3, 3)
        save_file(weights, file, {"format": "pt"})
        assert "conv_in.weight" in self.refusal(folder)

    def test_a_configuration_that_cannot_be_read(self, folder: Path) -> None:
        (folder / "unet" / "config.json").write_text("{", "utf-8")
        assert str(folder) in self.refusal(folder)

    def test_an_unknown_scheduler(self, folder: Path) -> None:
        use_scheduler(folder, "CrystalBallScheduler")
        assert "CrystalBallScheduler" in self.refusal(folder)
