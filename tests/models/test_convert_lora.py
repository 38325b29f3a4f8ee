"""LoRAs that become part of a UNet: the numbers, the names, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from banatie.errors import ModelBroken
from banatie.models.convert.lora import fuse

Name = Callable[[str, str], str]
UNET = "unet/diffusion_pytorch_model.safetensors"
RANK, ALPHA = 2, 3.0
LAYERS = (
    "conv_in",
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.1.attentions.0.proj_in",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "mid_block.resnets.1.time_emb_proj",
    "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0",
    "up_blocks.1.resnets.1.conv_shortcut",
)
STABILITY = {
    "down_blocks.0.resnets.0.conv1": "input_blocks_1_0_in_layers_2",
    "down_blocks.1.attentions.0.proj_in": "input_blocks_3_1_proj_in",
    "mid_block.resnets.1.time_emb_proj": "middle_block_2_emb_layers_1",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj": (
        "middle_block_1_transformer_blocks_0_ff_net_0_proj"
    ),
    "up_blocks.1.resnets.1.conv_shortcut": "output_blocks_3_0_skip_connection",
}


def kohya(layer: str, part: str) -> str:
    ending = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}[part]
    return f"lora_unet_{layer.replace('.', '_')}.{ending}"


def stability(layer: str, part: str) -> str:
    return kohya(STABILITY.get(layer, layer), part)


def peft(layer: str, part: str) -> str:
    ending = {"down": "lora_A.weight", "up": "lora_B.weight", "alpha": "alpha"}[part]
    return f"unet.{layer}.{ending}"


@pytest.fixture(scope="module")
def weights(tiny_sdxl: Path) -> Path:
    return tiny_sdxl / UNET


def a_lora(weights: Path, file: Path, name: Name = kohya, layers=LAYERS) -> Path:
    before, chance = load_file(weights), torch.Generator().manual_seed(0)
    tensors = {}
    for layer in layers:
        shape = before[f"{layer}.weight"].shape
        ones = (1,) * (len(shape) - 2)
        tensors[name(layer, "down")] = torch.randn(RANK, *shape[1:], generator=chance)
        tensors[name(layer, "up")] = torch.randn(shape[0], RANK, *ones, generator=chance)
        tensors[name(layer, "alpha")] = torch.tensor(ALPHA)
    save_file(tensors, file, {"made": "by hand"})
    return file


@pytest.mark.parametrize("name", [kohya, stability, peft])
def test_each_layer_gets_its_share_and_no_other(weights: Path, tmp_path: Path, name: Name) -> None:
    lora = a_lora(weights, tmp_path / "lora.safetensors", name)
    assert fuse(lora, weights, tmp_path / "fused.safetensors") == len(LAYERS)
    before, after = load_file(weights), load_file(tmp_path / "fused.safetensors")
    learned = load_file(lora)
    for layer in LAYERS:
        key = f"{layer}.weight"
        down, up = learned[name(layer, "down")], learned[name(layer, "up")]
        change = (up.flatten(1) @ down.flatten(1)).reshape(before[key].shape)
        torch.testing.assert_close(after[key], before[key] + ALPHA / RANK * change)
    untouched = before.keys() - {f"{layer}.weight" for layer in LAYERS}
    assert all(torch.equal(before[key], after[key]) for key in untouched)


def test_half_precision_stays_half_and_diffusers_loads_it(weights: Path, tmp_path: Path) -> None:
    half = {key: value.half() for key, value in load_file(weights).items()}
    folder = tmp_path / "unet"
    folder.mkdir()
    save_file(half, folder / "half.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes(weights.with_name("config.json").read_bytes())
    lora = a_lora(weights, tmp_path / "lora.safetensors")
    fuse(lora, folder / "half.safetensors", folder / "diffusion_pytorch_model.safetensors")
    unet = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float16)
    fused = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert unet.dtype == torch.float16
    assert all(torch.equal(value, fused[key]) for key, value in unet.state_dict().items())


def test_without_alpha_the_rank_takes_its_place(weights: Path, tmp_path: Path) -> None:
    lora = a_lora(weights, tmp_path / "lora.safetensors", layers=LAYERS[:1])
    learned = load_file(lora)
    del learned[kohya("conv_in", "alpha")]
    save_file(learned, lora)
    fuse(lora, weights, tmp_path / "fused.safetensors")
    down, up = learned[kohya("conv_in", "down")], learned[kohya("conv_in", "up")]
    before, after = load_file(weights), load_file(tmp_path / "fused.safetensors")
    change = (up.flatten(1) @ down.flatten(1)).reshape(before["conv_in.weight"].shape)
    torch.testing.assert_close(after["conv_in.weight"], before["conv_in.weight"] + change)


def test_what_does_not_fit_is_refused_by_name(weights: Path, tmp_path: Path) -> None:
    lora, fused = tmp_path / "lora.safetensors", tmp_path / "fused.safetensors"
    learned = load_file(a_lora(weights, lora))

    def refused(message: str, **changes: torch.Tensor) -> None:
        save_file({**learned, **{key.replace("__", "."): t for key, t in changes.items()}}, lora)
        with pytest.raises(ModelBroken, match=message):
            fuse(lora, weights, fused)

    one = torch.ones(1)
    refused("changes more than a UNet: lora_te1_x", lora_te1_x=one)
    refused("which has no down_blocks_9", lora_unet_down_blocks_9__alpha=one)
    refused("conv_out is incomplete", lora_unet_conv_out__lora_up__weight=one)
    refused("conv_in has another size", lora_unet_conv_in__lora_up__weight=torch.ones(8, RANK * 3))
    refused("is in I64, not in F16 or F32", lora_unet_conv_in__alpha=torch.ones(1).long())
    lora.write_bytes(lora.read_bytes()[:-5])
    with pytest.raises(ModelBroken, match="is incomplete"):
        fuse(lora, weights, fused)
