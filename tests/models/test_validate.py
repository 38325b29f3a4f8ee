"""What is told of a model's folder without loading it, against the libraries that load it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from banatie.errors import ModelBroken
from banatie.models.validate import (
    WeightSummary,
    check_language_model,
    check_weights,
    parameter_count,
    read_summary,
    sha256_of,
)
from tests.support.tiny_models import make_tiny_language_model

TENSORS = {
    "a": torch.zeros(3, 5),
    "b": torch.zeros(7, dtype=torch.bfloat16),
    "c": torch.zeros((), dtype=torch.int64),
    "d": torch.zeros(0, 4, dtype=torch.float8_e4m3fn),
    "e": torch.zeros(2, dtype=torch.bool),
}


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(TENSORS, file, metadata={"format": "pt"})
    return file


def test_a_whole_file_is_counted_as_it_was_written(file):
    assert read_summary(file) == WeightSummary(tensors=5, numbers=15 + 7 + 1 + 0 + 2)


def test_a_file_that_ends_anywhere_but_at_its_end_is_not_whole(file):
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(ModelBroken, match=r"not whole.*copy it again"):
            read_summary(file)
    file.write_bytes(whole + b"\0")
    with pytest.raises(ModelBroken, match=f"has {len(whole) + 1} bytes and should have"):
        read_summary(file)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"{}]",
        b"[]",
        b"\xff\xff",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": "many", "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
    ],
)
def test_a_head_that_makes_no_sense_is_told_of(file, head):
    file.write_bytes(len(head).to_bytes(8, "little") + head + b"\0" * 4)
    with pytest.raises(ModelBroken, match=r"model\.safetensors is (not whole|damaged)"):
        read_summary(file)


def test_a_head_that_claims_to_be_huge_is_not_read(file):
    file.write_bytes((2**63).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelBroken, match="head is cut off"):
        read_summary(file)


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


def test_a_language_models_numbers_are_its_parameters(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = make_tiny_language_model(tmp_path)
    files = check_language_model(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert parameter_count(files) == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_language_model_with_a_cut_file_is_broken(tmp_path, name):
    folder = make_tiny_language_model(tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes()[:-2])
    with pytest.raises(ModelBroken, match=name):
        check_language_model(folder)


def test_a_language_model_lacks_a_part_that_its_index_names(tmp_path):
    folder = make_tiny_language_model(tmp_path)
    shutil.move(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(ModelBroken, match=r"model-00002-of-00002\.safetensors is missing"):
        check_language_model(folder)
    index.write_text("{}")
    with pytest.raises(ModelBroken, match=r"index\.json cannot be read"):
        check_language_model(folder)


def test_the_hash_of_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "file") == expected
    with pytest.raises(ModelBroken, match="No such file"):
        sha256_of(tmp_path / "none")
