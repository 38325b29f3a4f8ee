"""The header of safetensors files, compared with the library that writes them."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from banatie.errors import ModelBroken
from banatie.models.safetensors_header import WeightSummary, read_header, read_summary

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
    assert read_summary(file) == WeightSummary(tensors=5, parameters=15 + 7 + 1 + 0 + 2)


def test_a_file_that_ends_anywhere_but_at_its_end_is_not_whole(file):
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(ModelBroken, match=r"is incomplete.*copy it again"):
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
    with pytest.raises(ModelBroken, match=r"model\.safetensors is (incomplete|damaged)"):
        read_summary(file)


def test_a_head_that_claims_to_be_huge_is_not_read(file):
    file.write_bytes((2**63).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelBroken, match="header is cut off"):
        read_summary(file)


def test_a_tensors_offset_is_where_its_data_begins(file):
    ones = torch.ones(3, 5)
    save_file({**TENSORS, "a": ones}, file)
    tensor = read_header(file).tensors["a"]
    content = file.read_bytes()[tensor.offset : tensor.offset + 60]
    assert content == ones.numpy().tobytes()
