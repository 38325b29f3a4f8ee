"""LoRAs in the canonical form: nothing is lost by it, and what has it already stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from banatie.models.convert.canonical_lora import write_canonical
from banatie.models.convert.structure import Layers

LAYER = "down_blocks.0.attentions.0.proj_in"
LAYERS: Layers = {"unet": {LAYER: (32, 48)}, "text_encoder": {}, "text_encoder_2": {}}


def written(file: Path, down: torch.Tensor, up: torch.Tensor, alpha: float) -> Path:
    name = f"lora_unet_{LAYER.replace('.', '_')}"
    parts = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(alpha)}
    save_file({f"{name}.{part}": tensor for part, tensor in parts.items()}, file)
    return file


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("down_size", "up_size"), [(1e-1, 1e-5), (1e-5, 1e-1), (1e-2, 1e-2)])
@pytest.mark.parametrize("alpha", [1.0, 1.7, 16.0, 128.0, -3.0])
def test_small_factors_keep_the_precision_of_small_numbers(
    tmp_path: Path, dtype: torch.dtype, down_size: float, up_size: float, alpha: float
) -> None:
    chance = torch.Generator().manual_seed(1)
    down = (down_size * torch.randn(16, 48, generator=chance)).to(dtype)
    up = (up_size * torch.randn(32, 16, generator=chance)).to(dtype)
    file = written(tmp_path / "a.safetensors", down, up, alpha)
    write_canonical(file, tmp_path / "b.safetensors", LAYERS)
    kept = load_file(tmp_path / "b.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {dtype}
    change = (
        kept[f"unet.{LAYER}.lora_B.weight"].float() @ kept[f"unet.{LAYER}.lora_A.weight"].float()
    )
    expected = alpha / 16 * (up.float() @ down.float())
    assert (change - expected).norm() <= 2 * torch.finfo(dtype).eps * expected.norm()


def test_the_canonical_form_is_copied_byte_for_byte(tmp_path: Path) -> None:
    one, two, three = (tmp_path / f"{name}.safetensors" for name in "abc")
    written(one, torch.ones(16, 48), torch.ones(32, 16), 4.0)
    assert write_canonical(one, two, LAYERS) != ""
    assert write_canonical(two, three, LAYERS) == ""
    assert two.read_bytes() == three.read_bytes()


def test_float8_becomes_half_precision(tmp_path: Path) -> None:
    down, up = torch.ones(16, 48), torch.ones(32, 16)
    eight = torch.float8_e4m3fn
    file = written(tmp_path / "a.safetensors", down.to(eight), up.to(eight), 4.0)
    write_canonical(file, tmp_path / "b.safetensors", LAYERS)
    kept = load_file(tmp_path / "b.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float16}
