"""Whether a model's folder holds what it should: what can be told without loading it.

Reads names, JSON and the heads of safetensors files; never imports torch. Whether a model can paint
or write is found out by `painter` and `enhancer`, which look here first.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from banatie.errors import ModelBroken, ModelNotFound

PIPELINE = "StableDiffusionXLPipeline"
PIPELINE_MODELS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}
"""The parts of a pipeline that have weights, and their classes."""
PIPELINE_REST = ("tokenizer", "tokenizer_2", "scheduler")

MAX_HEADER_BYTES = 100_000_000
"""Bytes; what the format allows (https://github.com/huggingface/safetensors)."""
_WIDTHS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
_WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|model)(\.fp16)?(-\d+-of-\d+)?(\.fp16)?\.safetensors"
)


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors file's head."""

    dtype: str
    """As the format names it: F16, BF16, F8_E4M3 …"""
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """How many numbers it is."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself before its numbers begin."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    """What the program that wrote it had to say; any of it may be missing or wrong."""


@dataclass(frozen=True)
class WeightSummary:
    """What is in a safetensors file."""

    tensors: int
    numbers: int


def check_pipeline(folder: Path) -> dict[str, list[Path]]:
    """The files of each model's weights in a pipeline's folder.

    Raises ModelNotFound or ModelBroken, naming the file and the remedy.
    """
    if not folder.is_dir():
        raise ModelNotFound(f"{folder} is not there; set painting.model to a folder that is")
    index_file = folder / "model_index.json"
    try:
        index = json.loads(index_file.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelBroken(
            f"{index_file} is missing: {folder} is not a pipeline in the diffusers layout"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelBroken(f"{index_file} cannot be read ({error}); copy it again") from error
    found = index.get("_class_name") if isinstance(index, dict) else None
    if found != PIPELINE:
        raise ModelBroken(
            f"{index_file} describes a {found}, but Banatie paints with a "
            f"{PIPELINE}; set painting.model to such a folder"
        )
    for name in (*PIPELINE_MODELS, *PIPELINE_REST):
        if not (folder / name).is_dir():
            raise ModelBroken(f"{folder / name} is missing; copy the model's folder again")
        entry = index.get(name)
        library, class_name = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        expected = PIPELINE_MODELS.get(name)
        if library is None or (expected is not None and class_name != expected):
            missed = f"not {expected}" if expected else "which is nothing"
            raise ModelBroken(
                f"{index_file} says that {name} is {class_name}, {missed}; "
                "set painting.model to a Stable Diffusion XL pipeline's folder"
            )
    return {name: check_weights(folder / name) for name in PIPELINE_MODELS}


def check_language_model(folder: Path) -> list[Path]:
    """The files of a language model's weights. Raises ModelBroken, naming the file."""
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        file = folder / name
        # Some tokenizers are kept in other files.
        if name != "config.json" and not file.exists():
            continue
        try:
            json.loads(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ModelBroken(f"{file} cannot be read ({error})") from error
    files = check_weights(folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelBroken(f"{index} cannot be read ({error})") from error
        if missing := sorted(named - {file.name for file in files}):
            raise ModelBroken(f"{folder / missing[0]} is missing")
    return files


def check_weights(folder: Path) -> list[Path]:
    """The files to be loaded: those in full precision or, when there are none, the `fp16` ones."""
    files = sorted(path for path in folder.iterdir() if is_weights(path.name))
    files = [path for path in files if not is_half(path)] or files
    if not files:
        raise ModelBroken(
            f"{folder} holds no weights in the safetensors format, the only one that is loaded; "
            "copy the model's folder again or convert it"
        )
    for file in files:
        read_summary(file)
    return files


def is_weights(name: str) -> bool:
    """Whether a file of this name holds a model's weights in the safetensors format."""
    return _WEIGHTS.fullmatch(name) is not None


def is_half(weights: Path) -> bool:
    """Whether the file's name says that it is in half precision."""
    return ".fp16" in weights.name


def read_summary(file: Path) -> WeightSummary:
    """How much a safetensors file holds, from its first bytes and its size alone.

    Raises ModelBroken when they do not fit each other.
    """
    tensors = read_header(file).tensors.values()
    return WeightSummary(len(tensors), sum(tensor.numel for tensor in tensors))


def read_header(file: Path) -> Header:
    """What a safetensors file holds, name by name, and what it says beside.

    Raises ModelBroken when the head does not fit the file's size.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise ModelBroken(f"{file} is not whole (its head is cut off); copy it again")
            head = json.loads(opened.read(length))
        metadata = head.pop("__metadata__", {})
        tensors, end = {}, 0
        for name, entry in head.items():
            first, last = entry["data_offsets"]
            tensors[name] = tensor = Tensor(entry["dtype"], tuple(entry["shape"]))
            count, width = tensor.numel, _WIDTHS.get(tensor.dtype)
            if width is not None and last - first != count * width:
                raise ModelBroken(f"{file} is damaged (the size of {name}); copy it again")
            end = max(end, last)
        metadata = {str(name): str(text) for name, text in metadata.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelBroken(f"{file} is not whole ({error}); copy it again") from error
    if end != size - 8 - length:
        raise ModelBroken(
            f"{file} is not whole (it has {size} bytes and should have {end + 8 + length}); "
            "copy it again"
        )
    return Header(tensors, metadata)


def parameter_count(files: Iterable[Path]) -> int:
    """How many numbers these weights are in all."""
    return sum(read_summary(file).numbers for file in files)


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file. Raises ModelBroken when it cannot be read."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ModelBroken(f"{file} cannot be read ({error.strerror})") from error
