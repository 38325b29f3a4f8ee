"""Merge a LoRA permanently into a UNet's weights: W + alpha / r · B · A (arXiv:2106.09685).

This turns few-step models that are published only as a LoRA for a base model into a model of their
own. Works on the files, one tensor at a time, with numpy alone. LoRAs of a single request are
applied in `painting.lora`.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from banatie.errors import ModelBroken
from banatie.models.convert.lora_names import layer_names, parse_key
from banatie.models.safetensors_header import Tensor, read_header

_DTYPES: Mapping[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}


def fuse(lora: Path, weights: Path, target: Path) -> int:
    """Write `weights` with the LoRA merged at full strength to `target`; the number of its layers.

    Both are safetensors files in half or full precision; `target` has the precision of `weights`.
    Raises ModelBroken when the LoRA does not fit the UNet.
    """
    layers = _layers(lora)
    tensors = _tensors(weights)
    names = _names(tensors)
    if missing := sorted(layer for layer in layers if layer not in names):
        raise ModelBroken(f"{lora.name} is not for this UNet, which has no {missing[0]}")
    shutil.copyfile(weights, target)
    content = np.memmap(target, np.uint8, "r+")
    lora_content = np.memmap(lora, np.uint8, "r")
    for layer, parts in layers.items():
        weight = _view(content, tensors[names[layer]])
        try:
            down, up = (
                _view(lora_content, parts[part]).astype(np.float32) for part in ("down", "up")
            )
            rank = len(down)
            alpha = float(_view(lora_content, parts["alpha"])) if "alpha" in parts else rank
            change = up.reshape(len(up), rank) @ down.reshape(rank, -1)
            weight[...] = weight + (alpha / rank) * change.reshape(weight.shape)
        except KeyError:
            raise ModelBroken(
                f"{lora.name} is damaged: {layer} is incomplete; download it again"
            ) from None
        except (ValueError, TypeError):
            raise ModelBroken(
                f"{lora.name} is not for this UNet, whose {layer} has another size"
            ) from None
    content.flush()
    return len(layers)


def _view(content: np.ndarray, tensor: Tensor) -> np.ndarray:
    """A tensor's elements inside a file's bytes; writing to them writes to the file."""
    dtype = _DTYPES[tensor.dtype]
    end = tensor.offset + tensor.numel * dtype.itemsize
    return content[tensor.offset : end].view(dtype).reshape(tensor.shape)


def _layers(lora: Path) -> Mapping[str, Mapping[str, Tensor]]:
    """By the layer's name, with underscores, its parts: down, up and optionally alpha."""
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in _tensors(lora).items():
        found = parse_key(key)
        if found is None or found.part != "unet":
            raise ModelBroken(f"{lora.name} changes more than a UNet: {key}")
        layers[found.layer][found.role] = tensor
    return layers


def _names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The UNet's tensors by every name that a LoRA may use for their layers."""
    layers = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    return {name: f"{layer}.weight" for name, layer in layer_names("unet", layers).items()}


def _tensors(file: Path) -> Mapping[str, Tensor]:
    """The tensors of a file in half or full precision. Raises ModelBroken."""
    tensors = read_header(file).tensors
    for tensor in tensors.values():
        if tensor.dtype not in _DTYPES:
            raise ModelBroken(f"{file.name} is in {tensor.dtype}, not in F16 or F32")
    return tensors
