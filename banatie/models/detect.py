"""Detection of what a single file of weights is, by the names and shapes in its header.

A file may be a complete Stable Diffusion XL checkpoint, a LoRA or an IP-Adapter for it, or one of
the many other things that are published beside them. Only the first bytes are read, nothing is
loaded, and a file that cannot be imported is refused by naming what it is. The tables are in
`detect_rules`; how a checkpoint is converted is for `convert.checkpoint`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from banatie.errors import ModelBroken, ModelNotFound
from banatie.models.detect_rules import (
    BASE_MODELS,
    LORA_CROSS_ATTENTION,
    LORA_DOWN,
    LORA_PREFIXES,
    OTHER_ADAPTERS,
    OTHER_BASES,
    OTHER_MODELS,
    PICKLE_SUFFIXES,
    SDXL_WIDTH,
    SIGNATURES,
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    UNET,
    USE_CHECKPOINT,
    USE_SDXL,
    USE_SDXL_LORA,
    VAES,
    is_lora,
)
from banatie.models.ip_adapter import adapter_shape, is_ip_adapter
from banatie.models.safetensors_header import Header, read_header

Format = Literal["checkpoint", "lora", "ip-adapter"]

INPAINTING_CHANNELS = 9
"""Of a UNet's input: the latents, a mask, and the latents of what is kept."""
_FIRST_LAYER = f"{UNET}input_blocks.0.0.weight"


@dataclass(frozen=True)
class DetectedFile:
    """A file that can be imported."""

    format: Format
    dtype: str
    """Of most of its parameters, as the safetensors format names it."""
    title: str = ""
    """From the file's metadata, empty where it has none; likewise the licence."""
    licence: str = ""
    predicts: Literal["noise", "velocity"] = "noise"
    """What a checkpoint's UNet was trained to predict (arXiv:2202.00512, section 4)."""
    prediction_marked: bool = False
    """Whether the file says what it predicts."""
    zero_terminal_snr: bool = False
    """Whether its last timestep is pure noise (arXiv:2305.08891)."""
    inpainting: bool = False
    """Whether a checkpoint's UNet also sees a mask and what is kept of a picture."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of a LoRA: its rank, and its trigger words or most frequent tags, where the file has them."""


def detect(file: Path, width: int = SDXL_WIDTH) -> DetectedFile:
    """Detect what a file is, for a UNet that attends to text embeddings of this width.

    Raises ModelNotFound, or ModelBroken that names what the file is and what to do.
    """
    if file.suffix.lower() in PICKLE_SUFFIXES:
        raise ModelBroken(
            f"{file.name} is a pickle file, which can execute code when it is loaded, so it is "
            "not opened; use the .safetensors version of the model"
        )
    try:
        with file.open("rb") as opened:
            beginning = opened.read(32)
    except FileNotFoundError:
        raise ModelNotFound(f"the file {file} does not exist") from None
    except OSError as error:
        raise ModelBroken(
            f"{file} cannot be read ({error.strerror}); check its permissions"
        ) from error
    for start, what, remedy in SIGNATURES:
        # A safetensors file has a brace after its header's length, which may be any bytes.
        if beginning.startswith(start) and beginning[8:9] != b"{":
            raise ModelBroken(f"{file.name} is {what}; {remedy}")
    if file.suffix.lower() != ".safetensors":
        raise ModelBroken(
            f"{file.name} cannot be imported; Banatie imports .safetensors files, folders in the "
            "diffusers layout and archives made by `banatie models export`"
        )
    header = read_header(file)
    # One for faces has a LoRA, too.
    if is_ip_adapter(header):
        return _detect_ip_adapter(file, header, width)
    if is_lora(header):
        return _detect_lora(file, header, width)
    _require_sdxl_checkpoint(file, header, width)
    predicts, marked, zero_terminal_snr = _training(header)
    return DetectedFile(
        "checkpoint",
        _dtype(header),
        header.metadata.get("modelspec.title", ""),
        header.metadata.get("modelspec.license", ""),
        predicts,
        marked,
        zero_terminal_snr,
        header.tensors[_FIRST_LAYER].shape[1] == INPAINTING_CHANNELS,
    )


def _require_sdxl_checkpoint(file: Path, header: Header, width: int) -> None:
    """Raises ModelBroken for anything but a complete SDXL checkpoint."""
    for what, remedy, matches in OTHER_MODELS:
        if matches(header):
            raise ModelBroken(f"{file.name} is {what}; {remedy}")
    first = header.tensors.get(_FIRST_LAYER)
    attended = _attended_width(header)
    if first is None or len(first.shape) != 4 or attended is None:
        example = next(iter(header.tensors), "none at all")
        raise ModelBroken(
            f"{file.name} is an unknown kind of model (its tensors have names like "
            f"{example[:80]!r}); import a Stable Diffusion XL checkpoint or a LoRA for one"
        )
    base = _base_model(SDXL_WIDTH if attended == width else attended)
    channels = first.shape[1]
    accepted = (4, INPAINTING_CHANNELS) if attended == width else (4,)
    if channels not in accepted:
        kind = {9: "for inpainting", 8: "for editing images", 5: "for depth maps"}.get(channels)
        raise ModelBroken(
            f"{file.name} is a checkpoint of {base} {kind or 'for another purpose'} "
            f"({channels} input channels); use the base version, which has 4"
        )
    if attended != width:
        raise ModelBroken(f"{file.name} is a checkpoint of {base}; {USE_SDXL}")
    missing = [
        name
        for name, starts in (
            ("text encoders", (TEXT_ENCODER,)),
            ("second text encoder", (TEXT_ENCODER_2,)),
            ("VAE", VAES),
        )
        if not any(key.startswith(starts) for key in header.tensors)
    ]
    if missing:
        raise ModelBroken(
            f"{file.name} is a checkpoint of {base} without its {missing[0]}; {USE_CHECKPOINT}"
        )


def _detect_lora(file: Path, header: Header, width: int) -> DetectedFile:
    for pattern, what in OTHER_ADAPTERS:
        if any(pattern.search(name) for name in header.tensors):
            raise ModelBroken(
                f"{file.name} is {what}, a kind of adapter that Banatie cannot apply; "
                "use a plain LoRA"
            )
    attended = {
        tensor.shape[1]
        for name, tensor in header.tensors.items()
        if LORA_CROSS_ATTENTION.search(name) and len(tensor.shape) == 2
    }
    if attended and attended != {width}:
        raise ModelBroken(
            f"{file.name} is a LoRA for {_base_model(min(attended))}; {USE_SDXL_LORA}"
        )
    if not attended:
        for pattern, base in OTHER_BASES:
            if any(pattern.match(name) for name in header.tensors):
                raise ModelBroken(f"{file.name} is a LoRA for {base}; {USE_SDXL_LORA}")
    downs = [t.shape[0] for n, t in header.tensors.items() if LORA_DOWN.search(n) and t.shape]
    if not downs:
        raise ModelBroken(
            f"{file.name} has a LoRA's names, but none of its matrices; download it again"
        )
    if unknown := [name for name in header.tensors if not name.startswith(LORA_PREFIXES)]:
        raise ModelBroken(
            f"{file.name} is a LoRA whose names do not say which model they are for "
            f"({unknown[0][:80]!r}); use a version in kohya's or diffusers' format"
        )
    title = header.metadata.get("modelspec.title") or header.metadata.get("ss_output_name", "")
    settings: dict[str, Any] = {"rank": max(downs)}
    if trigger := header.metadata.get("modelspec.trigger_phrase", "").strip():
        settings["trigger_words"] = [word.strip() for word in trigger.split(",") if word.strip()]
    elif tags := _frequent_tags(header):
        settings["frequent_tags"] = tags
    licence = header.metadata.get("modelspec.license", "")
    return DetectedFile("lora", _dtype(header), title, licence, settings=settings)


def _detect_ip_adapter(file: Path, header: Header, width: int) -> DetectedFile:
    attended = adapter_shape(header, file.name).text_width
    if attended != width:
        raise ModelBroken(
            f"{file.name} is an IP-Adapter for {_base_model(attended)}; use one that was made for "
            "Stable Diffusion XL"
        )
    return DetectedFile("ip-adapter", _dtype(header))


def _base_model(width: int) -> str:
    return BASE_MODELS.get(width, f"a model that reads embeddings {width} wide")


def _attended_width(header: Header) -> int | None:
    """The width of the text embeddings that the UNet attends to."""
    for name, tensor in header.tensors.items():
        if name.startswith(UNET) and name.endswith("attn2.to_k.weight") and tensor.shape:
            return tensor.shape[-1]
    return None


def _training(header: Header) -> tuple[Literal["noise", "velocity"], bool, bool]:
    # Marker tensors of NoobAI's and Illustrious' trainers, and ModelSpec's metadata
    # (https://github.com/Stability-AI/ModelSpec).
    zero_terminal_snr = "ztsnr" in header.tensors
    prediction = header.metadata.get("modelspec.prediction_type", "").lower()
    velocity = "v_pred" in header.tensors or prediction in ("v", "v_prediction", "v-prediction")
    return "velocity" if velocity else "noise", velocity or bool(prediction), zero_terminal_snr


def _dtype(header: Header) -> str:
    amounts: Counter[str] = Counter()
    for tensor in header.tensors.values():
        amounts[tensor.dtype] += tensor.numel
    return amounts.most_common(1)[0][0]


def _frequent_tags(header: Header) -> list[str]:
    """The five most frequent training tags, from kohya's metadata; none where they are missing."""
    try:
        folders = json.loads(header.metadata.get("ss_tag_frequency", "{}"))
        counts: Counter[str] = Counter()
        for tags in folders.values():
            counts.update({tag.strip(): int(number) for tag, number in tags.items()})
    except (ValueError, TypeError, AttributeError):
        return []
    return [tag for tag, _ in counts.most_common(5) if tag]
