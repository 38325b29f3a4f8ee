"""What an IP-Adapter's files hold, read from their headers: which image encoder and UNet they fit.

An IP-Adapter (arXiv:2308.06721) lets a UNet attend to pictures beside the text. Its folder has the
adapter's weights and the CLIP image encoder that it was trained with. Never imports torch; how it
is used is for `painting.image_prompt`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from banatie.errors import ModelBroken
from banatie.models.safetensors_header import Header, read_header, read_summary

ADAPTER_FILE = "ip_adapter.safetensors"
IMAGE_ENCODER = "image_encoder"
IMAGE_ENCODER_CLASS = "CLIPVisionModelWithProjection"

_PREFIXES = ("image_proj.", "ip_adapter.")
_MATRIX = re.compile(r"ip_adapter\.\d+\.to_([kv])_ip\.weight")
_FACES = re.compile(r"image_proj\.(perceiver_resampler\.|proj\.[023]\.)|ip_adapter\..*lora")
_PLAIN = "image_proj.proj.weight"
_PLUS = "image_proj.proj_in.weight"
_BLOCK = (
    *("0.norm1.weight", "0.norm1.bias", "0.norm2.weight", "0.norm2.bias", "0.to_q.weight"),
    *("0.to_kv.weight", "0.to_out.weight", "1.0.weight", "1.0.bias", "1.1.weight", "1.3.weight"),
)
_PROJECTIONS = {
    _PLAIN: {"proj.weight", "proj.bias", "norm.weight", "norm.bias"},
    _PLUS: {
        *("latents", "proj_in.weight", "proj_in.bias", "proj_out.weight", "proj_out.bias"),
        *("norm_out.weight", "norm_out.bias"),
        *(f"layers.{number}.{name}" for number in range(4) for name in _BLOCK),
    },
}
"""The tensors of a plain and of a "plus" adapter's projection."""


@dataclass(frozen=True)
class AdapterShape:
    """The sizes that decide what an adapter fits."""

    detailed: bool
    """Whether it reads the picture's patches ("plus"), or else the embedding of all of it."""
    image_width: int
    """Of what it reads from the image encoder."""
    text_width: int
    """Of the embeddings that the UNet attends to."""


def is_ip_adapter(header: Header) -> bool:
    """Whether any tensor has an IP-Adapter's name."""
    return any(name.startswith(_PREFIXES) for name in header.tensors)


def adapter_shape(header: Header, name: str) -> AdapterShape:
    """The sizes of the adapter in the file `name`. Raises ModelBroken for an unusable one."""
    if any(_FACES.match(tensor) for tensor in header.tensors):
        raise ModelBroken(
            f"{name} is an IP-Adapter for faces, which Banatie does not support; use "
            "ip-adapter_sdxl_vit-h.safetensors or ip-adapter-plus_sdxl_vit-h.safetensors"
        )
    first = _PLAIN if _PLAIN in header.tensors else _PLUS
    expected = {f"image_proj.{tensor}" for tensor in _PROJECTIONS[first]}
    others = {tensor for tensor in header.tensors if not _MATRIX.fullmatch(tensor)}
    widths = {shape[-1] for shape in _matrices(header)}
    projection = header.tensors.get(first)
    if projection is None or len(projection.shape) != 2 or len(widths) != 1 or others != expected:
        raise ModelBroken(
            f"{name} has an IP-Adapter's names, but not all of its tensors; download it again"
        )
    return AdapterShape(first == _PLUS, projection.shape[1], widths.pop())


def check_layers(header: Header, name: str, layers: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ModelBroken unless the adapter has matrices for each of a UNet's cross-attentions.

    `layers` are the shapes of the UNet's weights by diffusers' names of the layers.
    """
    attended = sorted(
        shape for layer, shape in layers.items() if layer.endswith(("attn2.to_k", "attn2.to_v"))
    )
    if sorted(_matrices(header)) != attended:
        raise ModelBroken(
            f"{name} is an IP-Adapter for another UNet than Stable Diffusion XL's: its matrices do "
            "not fit the layers; use one that was made for Stable Diffusion XL"
        )


def _matrices(header: Header) -> list[tuple[int, ...]]:
    return [
        entry.shape
        for tensor, entry in header.tensors.items()
        if _MATRIX.fullmatch(tensor) and len(entry.shape) == 2
    ]


def check_image_encoder(folder: Path, shape: AdapterShape) -> list[Path]:
    """The weight files of the encoder in a folder.

    Raises ModelBroken when the adapter needs another one.
    """
    # validate imports this module.
    from banatie.models.validate import check_weights

    config = _read_config(folder)
    classes = config.get("architectures") or []
    if not any(str(name).startswith("CLIPVisionModel") for name in classes):
        raise ModelBroken(
            f"{folder / 'config.json'} does not describe a CLIP image encoder "
            f"({IMAGE_ENCODER_CLASS}); name another folder"
        )
    width = config.get("hidden_size" if shape.detailed else "projection_dim")
    if width != shape.image_width:
        raise ModelBroken(
            f"the image encoder in {folder} gives embeddings {width} wide, but the IP-Adapter "
            f"reads {shape.image_width}; use the one that it was trained with"
        )
    return check_weights(folder)


def check_ip_adapter(folder: Path) -> tuple[AdapterShape, list[Path]]:
    """Check an installed adapter's folder: its sizes and the encoder's weight files.

    Raises ModelBroken, naming the file and the remedy.
    """
    file = folder / ADAPTER_FILE
    if not file.is_file():
        raise ModelBroken(f"{file} is missing; install the IP-Adapter again")
    shape = adapter_shape(read_header(file), file.name)
    if not (folder / IMAGE_ENCODER).is_dir():
        raise ModelBroken(f"{folder / IMAGE_ENCODER} is missing; install the IP-Adapter again")
    return shape, check_image_encoder(folder / IMAGE_ENCODER, shape)


def adapter_parameters(folder: Path) -> tuple[int, int]:
    """How many parameters the adapter and its image encoder have. Raises ModelBroken."""
    _, encoder = check_ip_adapter(folder)
    numbers = sum(read_summary(file).parameters for file in encoder)
    return read_summary(folder / ADAPTER_FILE).parameters, numbers


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        return dict(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelBroken(f"{file} cannot be read ({error}); copy it again") from error
