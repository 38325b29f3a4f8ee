"""The conversion of a GGUF file, compared with gguf's own reader and with transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from banatie.errors import ModelBroken
from banatie.models.convert.gguf import convert_gguf, merge_adapter
from banatie.models.manifest import sha256_of
from tests.support.gguf_files import CHAT_TEMPLATE, HEADS, WIDTH, write_adapter, write_gguf

QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


@pytest.fixture(scope="module")
def converted(gguf_file: Path) -> Path:
    folder = gguf_file.parent / "converted"
    folder.mkdir()
    convert_gguf(gguf_file, folder)
    return folder


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return shutil.copytree(converted, tmp_path / "model")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_adapter(folder, 1)
    return folder


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def merged_adapter(folder: Path) -> str | None:
    return json.loads((folder / "config.json").read_text()).get("merged_adapter")


def test_transformers_loads_what_was_converted(converted: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted, local_files_only=True)
    network, report = AutoModelForCausalLM.from_pretrained(
        converted, local_files_only=True, output_loading_info=True
    )
    assert not any(report.values())
    assert network.dtype == torch.bfloat16
    ids = tokenizer("cat 42", return_tensors="pt").input_ids
    assert tokenizer.convert_ids_to_tokens(ids[0]) == ["cat", "Ġ", "4", "2"]
    assert tokenizer.decode(ids[0]) == "cat 42"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|start|>", "<|end|>")
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert torch.isfinite(network(ids).logits).all()


def test_the_weights_are_the_gguf_s_in_transformers_order(converted: Path, gguf_file: Path) -> None:
    ours = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32).state_dict()
    reader = gguf.GGUFReader(gguf_file)
    theirs = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    for name in ("q_proj", "k_proj"):
        # The halves of each head's rotated pairs, interleaved in GGUF (llama.cpp's permute).
        weight = ours[f"model.layers.1.self_attn.{name}.weight"]
        heads = HEADS if name == "q_proj" else 1
        halves = weight.reshape(heads, 2, -1, WIDTH).transpose(1, 2).reshape(weight.shape)
        expected = torch.tensor(theirs[f"blk.1.attn_{name[0]}.weight"])
        torch.testing.assert_close(halves, expected, atol=0.02, rtol=0.01)
    down = torch.tensor(theirs["blk.0.ffn_down.weight"])
    torch.testing.assert_close(
        ours["model.layers.0.mlp.down_proj.weight"], down, atol=0.02, rtol=0.01
    )


def test_an_adapter_is_merged_into_its_layers_and_no_others(folder: Path, adapter: Path) -> None:
    plain = weights_of(folder)
    assert merged_adapter(folder) is None
    merge_adapter(adapter, folder)
    merged = weights_of(folder)
    down, up = load_file(adapter / "adapter_model.safetensors").values()
    expected = plain[QUERY].double() + 2 * up.double() @ down.double()
    assert torch.equal(merged[QUERY], expected.bfloat16())
    for name in plain.keys() - {QUERY}:
        assert torch.equal(plain[name], merged[name]), name
    assert merged_adapter(folder) == sha256_of(adapter / "adapter_model.safetensors")


def test_an_adapter_for_another_model_is_refused(folder: Path, adapter: Path) -> None:
    write_adapter(adapter, 1, width=WIDTH * 2)
    with pytest.raises(ModelBroken, match="not for this model"):
        merge_adapter(adapter, folder)
    assert merged_adapter(folder) is None


@pytest.mark.parametrize("architecture", ["mamba", None])
def test_what_is_no_llama_is_refused(tmp_path: Path, architecture: str | None) -> None:
    file = tmp_path / "tiny.gguf"
    if architecture:
        write_gguf(file, architecture)
    else:
        file.write_bytes(b"no GGUF at all" * 99)
    with pytest.raises(ModelBroken, match=r"tiny\.gguf is not a"):
        convert_gguf(file, tmp_path)
