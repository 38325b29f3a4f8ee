"""Merge a LoRA permanently into a UNet's weights: W + alpha / r · B · A (arXiv:2106.09685).

This turns few-step models that are published only as a LoRA for a base model into a model of their
own. Works on the files, one tensor at a time, with numpy alone. LoRAs of a single request are
applied in `painting.lora`.
"""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from banatie.errors import ModelBroken
from banatie.models.safetensors_header import Tensor, read_header

_DTYPES: Mapping[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
_KEY = re.compile(
    r"(?:lora_unet_|unet\.)(?P<layer>.+?)"
    r"\.(?:(?P<down>lora_down|lora_A|lora\.down)|(?P<up>lora_up|lora_B|lora\.up)|(?P<alpha>alpha))"
    r"(?:\.weight)?"
)
# The names of a block's parts in Stability's own code.
_RESNET_PARTS = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(r"(down|up)_blocks_(\d+)_(resnets|attentions)_(\d+)_(.+)")
_MIDDLE = re.compile(r"mid_block_(resnets|attentions)_(\d+)_(.+)")


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
        found = _KEY.fullmatch(key)
        if found is None:
            raise ModelBroken(f"{lora.name} changes more than a UNet: {key}")
        part = next(part for part in ("down", "up", "alpha") if found[part])
        layers[found["layer"].replace(".", "_")][part] = tensor
    return layers


def _names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The UNet's tensors by every name that a LoRA may use for their layers."""
    names: dict[str, str] = {}
    for name in tensors:
        if name.endswith(".weight"):
            layer = name.removesuffix(".weight").replace(".", "_")
            names |= dict.fromkeys((layer, *_stability_names(layer)), name)
    return names


def _stability_names(layer: str) -> Iterator[str]:
    """A layer's names in Stability's own code for SDXL's UNet, with three parts to a block."""
    if found := _BLOCK.fullmatch(layer):
        side, block, kind, index, rest = found.groups()
        number = 3 * int(block) + int(index) + (side == "down")
        place = f"{'input' if side == 'down' else 'output'}_blocks_{number}"
        inner = _RESNET_PARTS.get(rest, rest) if kind == "resnets" else rest
        yield f"{place}_{int(kind == 'attentions')}_{inner}"
    elif found := _MIDDLE.fullmatch(layer):
        kind, index, rest = found.groups()
        inner = _RESNET_PARTS.get(rest, rest) if kind == "resnets" else rest
        yield f"middle_block_{1 if kind == 'attentions' else 2 * int(index)}_{inner}"


def _tensors(file: Path) -> Mapping[str, Tensor]:
    """The tensors of a file in half or full precision. Raises ModelBroken."""
    tensors = read_header(file).tensors
    for tensor in tensors.values():
        if tensor.dtype not in _DTYPES:
            raise ModelBroken(f"{file.name} is in {tensor.dtype}, not in F16 or F32")
    return tensors
