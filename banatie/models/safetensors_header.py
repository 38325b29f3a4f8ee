"""The header of a safetensors file: names, types and shapes of its tensors, and its metadata.

Read without loading a weight, and checked against the file's size, which finds truncated files.
What the tensors mean is not known here. Format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from banatie.errors import ModelBroken

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
_DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


@dataclass(frozen=True)
class Tensor:
    """A tensor's entry in the header."""

    dtype: str
    """As the format names it: F16, BF16, F8_E4M3 …"""
    shape: tuple[int, ...]
    offset: int
    """Where its data begins in the file, in bytes."""

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A safetensors file's header."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    """Written by the program that made the file; any of it may be missing or wrong."""


@dataclass(frozen=True)
class WeightSummary:
    """How much a safetensors file holds."""

    tensors: int
    parameters: int


def read_header(file: Path) -> Header:
    """Read a file's header. Raises ModelBroken when it does not match the file's size."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise ModelBroken(f"{file} is incomplete (its header is cut off); copy it again")
            content = json.loads(opened.read(length))
        # Some programs write null where there is none.
        metadata = content.pop("__metadata__", None) or {}
        tensors, end = {}, 0
        for name, entry in content.items():
            first, last = entry["data_offsets"]
            tensor = Tensor(entry["dtype"], tuple(entry["shape"]), 8 + length + first)
            width = _DTYPE_BYTES.get(tensor.dtype)
            if width is not None and last - first != tensor.numel * width:
                raise ModelBroken(f"{file} is damaged (the size of {name}); copy it again")
            tensors[name] = tensor
            end = max(end, last)
        metadata = {str(name): str(text) for name, text in metadata.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelBroken(f"{file} is incomplete ({error}); copy it again") from error
    if end != size - 8 - length:
        raise ModelBroken(
            f"{file} is incomplete (it has {size} bytes and should have {end + 8 + length}); "
            "copy it again"
        )
    return Header(tensors, metadata)


def read_summary(file: Path) -> WeightSummary:
    """How much a file holds. Raises ModelBroken when its header does not match its size."""
    tensors = read_header(file).tensors.values()
    return WeightSummary(len(tensors), sum(tensor.numel for tensor in tensors))


def parameter_count(files: Iterable[Path]) -> int:
    """The number of parameters in these files together."""
    return sum(read_summary(file).parameters for file in files)


def weights_sha256(file: Path) -> str:
    """The SHA-256 of a file without its header, which stays when its metadata is edited.

    Raises ModelBroken when the file cannot be read.
    """
    try:
        with file.open("rb") as opened:
            opened.seek(8 + int.from_bytes(opened.read(8), "little"))
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ModelBroken(f"{file} cannot be read ({error.strerror})") from error
