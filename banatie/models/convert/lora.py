"""Fold a LoRA into a UNet's weights for good: W + alpha / r · B · A (arXiv:2106.09685).

Few-step models that come only as a LoRA for a base model become a model of their own by it. Works
on the files, a tensor at a time, and needs no torch. LoRAs for one job are another matter.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from banatie.errors import ModelBroken
from banatie.models.validate import read_summary

_TYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
_KEY = re.compile(
    r"(?:lora_unet_|unet\.)(?P<layer>.+?)"
    r"\.(?:(?P<down>lora_down|lora_A|lora\.down)|(?P<up>lora_up|lora_B|lora\.up)|(?P<alpha>alpha))"
    r"(?:\.weight)?"
)
# What Stability's own code calls the parts of a block.
_RESNET_PARTS = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(r"(down|up)_blocks_(\d+)_(resnets|attentions)_(\d+)_(.+)")
_MIDDLE = re.compile(r"mid_block_(resnets|attentions)_(\d+)_(.+)")


@dataclass(frozen=True)
class _Tensor:
    """Where a tensor lies in a safetensors file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int

    def of(self, content: np.ndarray) -> np.ndarray:
        """It, out of the file's bytes; writing to it writes to them."""
        size = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        return content[self.begin : self.begin + size].view(self.dtype).reshape(self.shape)


def fuse(lora: Path, weights: Path, into: Path) -> int:
    """Write to `into` what `weights` become with the LoRA at full strength; how many layers change.

    Both are safetensors files, in half or full precision; `into` has the precision of `weights`.
    Raises ModelBroken when the LoRA does not fit the UNet.
    """
    layers = _layers(lora)
    tensors = _tensors(weights)
    names = _names(tensors)
    if missing := sorted(layer for layer in layers if layer not in names):
        raise ModelBroken(f"{lora.name} is not for this UNet, which has no {missing[0]}")
    shutil.copyfile(weights, into)
    content = np.memmap(into, np.uint8, "r+")
    learned = np.memmap(lora, np.uint8, "r")
    for layer, parts in layers.items():
        weight = tensors[names[layer]].of(content)
        try:
            down, up = (parts[part].of(learned).astype(np.float32) for part in ("down", "up"))
            rank = len(down)
            alpha = float(parts["alpha"].of(learned)) if "alpha" in parts else rank
            change = up.reshape(len(up), rank) @ down.reshape(rank, -1)
            weight[...] = weight + (alpha / rank) * change.reshape(weight.shape)
        except KeyError:
            raise ModelBroken(f"{lora.name} is damaged: {layer} is not whole") from None
        except (ValueError, TypeError):
            raise ModelBroken(
                f"{lora.name} is not for this UNet, whose {layer} has another size"
            ) from None
    content.flush()
    return len(layers)


def _layers(lora: Path) -> Mapping[str, Mapping[str, _Tensor]]:
    """By the layer's name, with underscores, its parts: down, up and perhaps alpha."""
    layers: dict[str, dict[str, _Tensor]] = defaultdict(dict)
    for key, tensor in _tensors(lora).items():
        found = _KEY.fullmatch(key)
        if found is None:
            raise ModelBroken(f"{lora.name} changes more than a UNet: {key}")
        part = next(part for part in ("down", "up", "alpha") if found[part])
        layers[found["layer"].replace(".", "_")][part] = tensor
    return layers


def _names(tensors: Mapping[str, _Tensor]) -> dict[str, str]:
    """The UNet's tensors by all names that a LoRA may have for their layers."""
    names = {}
    for name in tensors:
        if name.endswith(".weight"):
            layer = name.removesuffix(".weight").replace(".", "_")
            names |= dict.fromkeys((layer, *_stability_names(layer)), name)
    return names


def _stability_names(layer: str) -> Iterator[str]:
    """What Stability's own code calls a layer of SDXL's UNet, with three parts to a block."""
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


def _tensors(file: Path) -> dict[str, _Tensor]:
    """Where what lies in a safetensors file. Raises ModelBroken."""
    read_summary(file)
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        head = json.loads(opened.read(length))
    head.pop("__metadata__", None)
    tensors = {}
    for name, entry in head.items():
        if entry["dtype"] not in _TYPES:
            raise ModelBroken(f"{file.name} holds numbers of the kind {entry['dtype']}")
        begin = 8 + length + entry["data_offsets"][0]
        tensors[name] = _Tensor(_TYPES[entry["dtype"]], tuple(entry["shape"]), begin)
    return tensors
