"""A LoRA in the one form that is applied: diffusers' names, and alpha / rank in the weights.

A LoRA adds alpha / rank · up · down to a layer (arXiv:2106.09685). Each layer may have its own rank
and alpha, and where a file says so differs between programs. In this form a LoRA adds up · down and
nothing else, so that no library has to find out a strength. Every tensor of a file has its place or
the file is refused by the tensor's name. How the files are installed is for `import_file`.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from banatie.errors import ModelBroken
from banatie.models.convert.lora_names import PARTS, Part, Role, layer_names, parse_key
from banatie.models.convert.structure import Layers, Shape
from banatie.models.safetensors_header import read_header

ADAPTER_METADATA = "lora_adapter_metadata"
"""Where diffusers writes ranks and alphas in a file's header."""
_KEPT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_DTYPES = {
    torch.float64: torch.float32,
    torch.float8_e4m3fn: torch.float16,
    torch.float8_e5m2: torch.float16,
}
"""What becomes of the types that are not kept."""

Parts = Mapping[Role, tuple[str, torch.Tensor]]
"""Of one layer: each tensor, and its name in the file."""


@dataclass(frozen=True)
class LoraLayer:
    """What a LoRA adds to one layer: up · down."""

    part: Part
    layer: str
    """In diffusers' LoRA format."""
    down: torch.Tensor
    up: torch.Tensor

    @property
    def rank(self) -> int:
        """The number of rows of `down`."""
        return len(self.down)


@dataclass(frozen=True)
class CanonicalLora:
    """A LoRA in the canonical form."""

    layers: tuple[LoraLayer, ...]
    changed: str
    """What was changed in the file, for people; empty when it had this form already."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by their names in the file."""
        found = {}
        for layer in self.layers:
            found[f"{layer.part}.{layer.layer}.lora_A.weight"] = layer.down
            found[f"{layer.part}.{layer.layer}.lora_B.weight"] = layer.up
        return found


def read_canonical(file: Path, layers: Layers) -> CanonicalLora:
    """Read a LoRA of any layout, for a pipeline with these layers.

    Raises ModelBroken, naming the tensor, when anything in it cannot be applied exactly.
    """
    header = read_header(file)
    try:
        tensors = load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelBroken(f"{file.name} cannot be read ({error}); copy it again") from error
    metadata = _adapter_metadata(file, header.metadata)
    made, folded = [], 0
    for (part, layer), parts in _by_layer(file, tensors, layers).items():
        down, up = _matrices(file, parts, layers[part][layer])
        factor = _factor(file, parts, len(down), part, layer, metadata)
        folded += factor != 1
        made.append(LoraLayer(part, layer, *_fold(down, up, factor)))
    lora = CanonicalLora(tuple(made), "")
    names = lora.tensors()
    changes = []
    if renamed := sum(name not in names for name in tensors):
        changes.append(f"{renamed} of {len(tensors)} tensors renamed or left out")
    if folded:
        changes.append(f"alpha / rank multiplied into {folded} of {len(made)} layers")
    if reshaped := sum(
        name in names and (t.shape != names[name].shape or t.dtype != names[name].dtype)
        for name, t in tensors.items()
    ):
        changes.append(f"{reshaped} tensors in another shape or precision")
    return CanonicalLora(lora.layers, "; ".join(changes))


def write_canonical(file: Path, target: Path, layers: Layers) -> str:
    """Write a LoRA in the canonical form to `target`; what was changed, empty when nothing was.

    Raises ModelBroken, naming the tensor, when anything in it cannot be applied exactly.
    """
    lora = read_canonical(file, layers)
    for layer in lora.layers:
        for tensor in (layer.down, layer.up):
            if not torch.isfinite(tensor).all():
                raise ModelBroken(
                    f"{file.name} cannot be applied: its weights for {layer.part}.{layer.layer} "
                    "are not all finite numbers; take another version of it"
                )
    if not lora.changed:
        shutil.copyfile(file, target)
        return ""
    metadata = {n: t for n, t in read_header(file).metadata.items() if n != ADAPTER_METADATA}
    save_file({n: t.contiguous() for n, t in lora.tensors().items()}, target, metadata)
    return lora.changed


def _by_layer(
    file: Path, tensors: Mapping[str, torch.Tensor], layers: Layers
) -> dict[tuple[Part, str], Parts]:
    names = {part: layer_names(part, layers[part]) for part in PARTS}
    found: dict[tuple[Part, str], dict[Role, tuple[str, torch.Tensor]]] = {}
    for key, tensor in tensors.items():
        parsed = parse_key(key)
        if parsed is None:
            raise _unfit(file, key, "is in no known LoRA format")
        layer = names[parsed.part].get(parsed.layer)
        if layer is None:
            raise _unfit(file, key, f"is for a layer that the {parsed.part} does not have")
        parts = found.setdefault((parsed.part, layer), {})
        if parsed.role in parts:
            raise _unfit(file, key, f"is for the same layer as {parts[parsed.role][0]!r}")
        parts[parsed.role] = (key, tensor)
    return {place: found[place] for place in sorted(found)}


def _matrices(file: Path, parts: Parts, shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's two matrices in the shapes that fit its weight."""
    if missing := {"down", "up"} - parts.keys():
        key = next(key for key, _ in parts.values())
        raise _unfit(file, key, f"lacks its other half, the {missing.pop()} matrix")
    matrices = []
    rank = max(len(parts["down"][1]) if parts["down"][1].ndim else 0, 1)
    ones = (1,) * (len(shape) - 2)
    for role, wanted in (("down", (rank, *shape[1:])), ("up", (shape[0], rank, *ones))):
        key, tensor = parts[role]  # type: ignore[index]
        # Some programs write a matrix as a convolution of 1 × 1, or the other way round.
        if _without_ones(tensor.shape) != _without_ones(wanted):
            has = "×".join(map(str, tensor.shape))
            raise _unfit(file, key, f"is {has}, and not {'×'.join(map(str, wanted))}")
        dtype = _DTYPES.get(tensor.dtype, tensor.dtype)
        if dtype not in _KEPT_DTYPES:
            raise _unfit(file, key, f"is of the type {tensor.dtype}")
        matrices.append(tensor.to(dtype).reshape(wanted))
    return matrices[0], matrices[1]


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a matrix that is written as a convolution of 1 × 1."""
    return tuple(shape[:2]) if len(shape) == 4 and tuple(shape[2:]) == (1, 1) else tuple(shape)


def _factor(
    file: Path,
    parts: Parts,
    rank: int,
    part: Part,
    layer: str,
    metadata: Mapping[str, Any],
) -> float:
    """The number by which the product of the two matrices is multiplied."""
    if "alpha" in parts:
        key, tensor = parts["alpha"]
        if tensor.numel() != 1:
            raise _unfit(file, key, "is not one number")
        factor = float(tensor) / rank
    else:
        key = f"{ADAPTER_METADATA} for {part}.{layer}"
        factor = _factor_of_metadata(metadata, rank, part, layer)
    if not math.isfinite(factor):
        raise _unfit(file, key, "is not a finite number")
    return factor


def _factor_of_metadata(metadata: Mapping[str, Any], rank: int, part: Part, layer: str) -> float:
    def setting(name: str, default: Any) -> Any:
        return metadata.get(f"{part}.{name}", default)

    alpha = setting("lora_alpha", None)
    if alpha is None:
        return 1.0
    for pattern, value in setting("alpha_pattern", {}).items():
        # peft's own rule: a pattern is a regular expression for the end of a module's name.
        short = layer.removeprefix("text_model.")
        if any(re.match(rf"(.*\.)?({pattern})$", name) for name in (layer, short)):
            alpha = value
            break
    return float(alpha) / (math.sqrt(rank) if setting("use_rslora", False) else rank)


def _adapter_metadata(file: Path, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        settings = json.loads(metadata.get(ADAPTER_METADATA, "{}"))
        for part in PARTS:
            for pattern, value in settings.get(f"{part}.alpha_pattern", {}).items():
                re.compile(pattern)
                float(value)
            float(settings.get(f"{part}.lora_alpha") or 1)
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise ModelBroken(
            f"{file.name} cannot be applied: its {ADAPTER_METADATA} cannot be read ({error}); "
            "take another version of it"
        ) from error
    return dict(settings)


def _fold(down: torch.Tensor, up: torch.Tensor, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Multiply the factor into the matrix that keeps more of its precision.

    A small factor makes small numbers vanish in half precision, and which of the two matrices has
    them differs between LoRAs.
    """
    if factor == 1:
        return down, up
    folded = {}
    for name, matrix in (("down", down), ("up", up)):
        product = (matrix.float() * factor).to(matrix.dtype)
        lost = (product.float() - matrix.float() * factor).norm() / (
            (matrix.float() * factor).norm() + torch.finfo(torch.float32).tiny
        )
        folded[name] = (float(lost) if product.isfinite().all() else math.inf, product)
    if folded["down"][0] < folded["up"][0]:
        return folded["down"][1], up
    return down, folded["up"][1]


def _unfit(file: Path, key: str, why: str) -> ModelBroken:
    return ModelBroken(
        f"{file.name} cannot be applied: {key[:120]!r} {why}; take a version of it that was made "
        "for this model"
    )
