"""The models to check with: SDXL with random weights, at full size or tiny, and a LoRA for it."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from banatie.models.sdxl import write_configs

FULL_NAME = "sdxl-random"
WEIGHTS = "diffusion_pytorch_model.fp16.safetensors"
ENCODER_WEIGHTS = "model.fp16.safetensors"


def write_full_size(folder: Path, device: str) -> Path:
    """Write SDXL at its full size with random weights in half precision; a complete folder.

    The weights are scaled by their inputs, so that a picture is neither NaN nor of one colour.
    """
    folder.mkdir(parents=True)
    write_configs(folder)
    with init_empty_weights():
        parts = {
            "unet": UNet2DConditionModel.from_config(
                UNet2DConditionModel.load_config(folder / "unet")
            ),
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
            "text_encoder_2": CLIPTextModelWithProjection(
                CLIPTextConfig.from_pretrained(folder / "text_encoder_2")
            ),
        }
    generator = torch.Generator(device).manual_seed(0)
    for name, model in parts.items():
        weights = {
            key: _random(key, tuple(tensor.shape), device, generator)
            for key, tensor in model.named_parameters()
        }
        file = ENCODER_WEIGHTS if name.startswith("text") else WEIGHTS
        save_file(weights, folder / name / file, metadata={"format": "pt"})
        del weights
    return folder


def write_lora(file: Path, unet: torch.nn.Module, rank: int = 8) -> Path:
    """Write a LoRA with random weights for the attention's queries of a UNet."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, module in unet.named_modules():
        if name.endswith("attn1.to_q"):
            out, inner = module.weight.shape
            down = torch.randn(rank, inner, generator=generator) / inner**0.5
            up = torch.randn(out, rank, generator=generator) / rank**0.5
            tensors[f"unet.{name}.lora_A.weight"] = down.half()
            tensors[f"unet.{name}.lora_B.weight"] = up.half()
    save_file(tensors, file)
    return file


def _random(
    name: str, shape: tuple[int, ...], device: str, generator: torch.Generator
) -> torch.Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=torch.float16, device=device)
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.float16, device=device)
    inputs = 1
    for side in shape[1:]:
        inputs *= side
    deviation = 0.02 if "embedding" in name and "token" in name else 0.8 / inputs**0.5
    numbers = torch.randn(shape, device=device, generator=generator, dtype=torch.float32)
    return (numbers * deviation).half().contiguous()
