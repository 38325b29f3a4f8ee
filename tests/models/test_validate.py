"""What is found out about a model's folder without loading it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from banatie.errors import ModelBroken
from banatie.models.safetensors_header import parameter_count
from banatie.models.validate import check_language_model, check_weights


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3, 5)}, file)
    return file


def test_full_precision_goes_before_half(tmp_path, file):
    half = tmp_path / "model.fp16.safetensors"
    shutil.copyfile(file, half)
    (tmp_path / "adapter.safetensors").write_bytes(b"nobody's")
    assert check_weights(tmp_path) == [file]
    file.unlink()
    assert check_weights(tmp_path) == [half]
    half.unlink()
    with pytest.raises(ModelBroken, match="no weights in the safetensors format"):
        check_weights(tmp_path)


def test_a_language_models_numbers_are_its_parameters(tiny_language_model):
    from transformers import AutoModelForCausalLM

    folder = tiny_language_model
    files = check_language_model(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert parameter_count(files) == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_language_model_with_a_cut_file_is_broken(tiny_language_model, tmp_path, name):
    folder = Path(shutil.copytree(tiny_language_model, tmp_path / "model"))
    (folder / name).write_bytes((folder / name).read_bytes()[:-2])
    with pytest.raises(ModelBroken, match=name):
        check_language_model(folder)


def test_a_language_model_lacks_a_part_that_its_index_names(tiny_language_model, tmp_path):
    folder = Path(shutil.copytree(tiny_language_model, tmp_path / "model"))
    shutil.move(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(ModelBroken, match=r"model-00002-of-00002\.safetensors is missing"):
        check_language_model(folder)
    index.write_text("{}")
    with pytest.raises(ModelBroken, match=r"index\.json cannot be read"):
        check_language_model(folder)
