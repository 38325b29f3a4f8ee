"""A tiny real IP-Adapter with random weights, and the CLIP image encoder that it reads.

In the layout of h94/IP-Adapter: a file of the adapter's tensors, and the encoder's folder. Knows
nothing of Banatie.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

Tensors = dict[str, torch.Tensor]

IMAGE_WIDTH, HIDDEN_WIDTH = 24, 32
"""Of the embedding of a whole picture, and of its patches."""
INNER_WIDTH = 64
"""Of a resampler: that of one attention head, which is fixed like its number of layers."""
LAYERS = 4
TOKENS = 4


def make_tiny_image_encoder(folder: Path, projection: int = IMAGE_WIDTH) -> Path:
    """Write an image encoder into `folder`, which it returns."""
    config = CLIPVisionConfig(
        hidden_size=HIDDEN_WIDTH,
        intermediate_size=32,
        projection_dim=projection,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        # With the default, different pictures have almost the same embedding.
        initializer_factor=3.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        CLIPVisionModelWithProjection(config).save_pretrained(folder, safe_serialization=True)
    return folder


def ip_adapter_tensors(pipeline: Path, *, detailed: bool = False) -> Tensors:
    """The tensors of an adapter for the UNet of a pipeline's folder; `detailed` is a "plus" one."""
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet")
    width = unet.config.cross_attention_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        tensors = dict(_resampler(width) if detailed else _projection(width))
        for number, hidden in enumerate(_attended(unet)):
            for matrix in ("to_k_ip", "to_v_ip"):
                name = f"ip_adapter.{2 * number + 1}.{matrix}.weight"
                tensors[name] = torch.randn(hidden, width)
    return tensors


def make_tiny_ip_adapter(file: Path, pipeline: Path, *, detailed: bool = False) -> Path:
    """Write such tensors as a file, which it returns."""
    save_file(ip_adapter_tensors(pipeline, detailed=detailed), file)
    return file


def _attended(unet: UNet2DConditionModel) -> Iterator[int]:
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            yield module.to_q.out_features


def _projection(width: int) -> Iterator[tuple[str, torch.Tensor]]:
    yield "image_proj.proj.weight", torch.randn(TOKENS * width, IMAGE_WIDTH)
    yield "image_proj.proj.bias", torch.randn(TOKENS * width)
    yield "image_proj.norm.weight", torch.ones(width)
    yield "image_proj.norm.bias", torch.zeros(width)


def _resampler(width: int) -> Iterator[tuple[str, torch.Tensor]]:
    inner = INNER_WIDTH
    shapes: dict[str, tuple[int, ...]] = {
        "latents": (1, TOKENS, inner),
        "proj_in.weight": (inner, HIDDEN_WIDTH),
        "proj_in.bias": (inner,),
        "proj_out.weight": (width, inner),
        "proj_out.bias": (width,),
        "norm_out.weight": (width,),
        "norm_out.bias": (width,),
    }
    for number in range(LAYERS):
        layer = {
            "0.norm1.weight": (inner,),
            "0.norm1.bias": (inner,),
            "0.norm2.weight": (inner,),
            "0.norm2.bias": (inner,),
            "0.to_q.weight": (inner, inner),
            "0.to_kv.weight": (2 * inner, inner),
            "0.to_out.weight": (inner, inner),
            "1.0.weight": (inner,),
            "1.0.bias": (inner,),
            "1.1.weight": (4 * inner, inner),
            "1.3.weight": (inner, 4 * inner),
        }
        shapes |= {f"layers.{number}.{name}": shape for name, shape in layer.items()}
    for name, shape in shapes.items():
        yield f"image_proj.{name}", torch.randn(shape) / 4
