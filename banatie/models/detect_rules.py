"""The tables of `detect`: by which bytes, tensor names and shapes a kind of file is recognised.

Each rule names what a file is that cannot be imported, and what to do instead. The order of the
rules and the logic around them are in `detect`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from banatie.models.convert.lora_names import PREFIXES
from banatie.models.safetensors_header import Header

UNET = "model.diffusion_model."
"""The prefix of the UNet's tensors in a checkpoint of the original layout."""
TEXT_ENCODER = "conditioner.embedders.0."
TEXT_ENCODER_2 = "conditioner.embedders.1."
VAES = ("first_stage_model.", "vae.")

SDXL_WIDTH = 2048
"""Of the text embeddings that SDXL's UNet attends to: its cross_attention_dim."""
BASE_MODELS = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    1280: "the refiner of Stable Diffusion XL",
    SDXL_WIDTH: "Stable Diffusion XL",
}
"""By the width of the text embeddings."""

USE_CHECKPOINT = "use the complete checkpoint, about 6.9 GB, or a folder in the diffusers layout"
USE_SDXL = "Banatie paints with Stable Diffusion XL: use a checkpoint of that"
USE_SDXL_LORA = "use one that was made for Stable Diffusion XL"
_USE_SAFETENSORS = "use the .safetensors version of the model"
_UNSUPPORTED = "Banatie does not support these; import a checkpoint or a LoRA"
_INCLUDED = "import a checkpoint, which includes its own"

PICKLE_SUFFIXES = (".ckpt", ".bin", ".pt", ".pth", ".pkl", ".pickle")

Predicate = Callable[[Header], bool]


class Signature(NamedTuple):
    """The first bytes of a file that is not a safetensors file."""

    start: bytes
    what: str
    remedy: str


class Rule(NamedTuple):
    """A kind of safetensors file that cannot be imported."""

    what: str
    remedy: str
    matches: Predicate


class NamePattern(NamedTuple):
    """A tensor name by which a kind of LoRA is recognised."""

    pattern: re.Pattern[str]
    what: str


SIGNATURES = (
    Signature(b"GGUF", "a GGUF file, with quantised weights", _USE_SAFETENSORS),
    Signature(b"PK\x03\x04", "a zip archive or a pickle", _USE_SAFETENSORS),
    Signature(b"\x80", "a pickle", _USE_SAFETENSORS),
    Signature(b"\x89PNG", "an image", "use the model's own file"),
    Signature(b"\xff\xd8\xff", "an image", "use the model's own file"),
    Signature(b"<", "a web page", "the site may require a login: download it again"),
    Signature(
        b"version https://git-lfs", "a git-lfs pointer", "fetch the file itself with: git lfs pull"
    ),
)


def starts_with(*patterns: str) -> Predicate:
    """Whether any tensor's name matches one of the patterns at its beginning."""
    pattern = re.compile("|".join(patterns))
    return lambda header: any(pattern.match(name) for name in header.tensors)


def contains(*patterns: str) -> Predicate:
    """Whether any tensor's name contains a match of one of the patterns."""
    pattern = re.compile("|".join(patterns))
    return lambda header: any(pattern.search(name) for name in header.tensors)


_ANY_UNET = f"({re.escape(UNET)})?"
_has_unet = starts_with(re.escape(UNET))
_has_unet_blocks = starts_with(re.escape(UNET) + r"input_blocks\.")
_has_second_text_encoder = starts_with(re.escape(TEXT_ENCODER_2))
_has_quantisation_scales = contains(
    r"\.absmax$", r"quant_state", r"(scale_weight|weight_scale|scale_input)$", r"scaled_fp8$"
)
_has_vae = starts_with(r"(first_stage_model\.|vae\.)?(encoder|decoder)\.(conv_in|mid|up|down)")
_has_text_encoder = starts_with(
    r"(transformer\.)?(text_model\.)?(encoder|embeddings|resblocks)\.",
    r"encoder\.block\.0\.layer\.0",
    r"transformer\.resblocks\.",
)
_has_open_clip_first = starts_with(r"conditioner\.embedders\.0\.model\.")
_has_diffusers_blocks = starts_with(r"down_blocks\.0\.resnets\.")


def _is_quantised(header: Header) -> bool:
    total = sum(tensor.numel for tensor in header.tensors.values())
    integers = sum(
        tensor.numel for tensor in header.tensors.values() if tensor.dtype[0] in "IU" and total
    )
    return integers > total / 2 or _has_quantisation_scales(header)


def _is_refiner(header: Header) -> bool:
    return _has_open_clip_first(header) and not _has_second_text_encoder(header)


def _is_unet_alone(header: Header) -> bool:
    return "input_blocks.0.0.weight" in header.tensors or (
        _has_diffusers_blocks(header) and "conv_in.weight" in header.tensors
    )


def _is_vae_alone(header: Header) -> bool:
    return _has_vae(header) and not _has_unet(header)


def _is_embedding(header: Header) -> bool:
    return 0 < len(header.tensors) <= 4 and all(
        len(tensor.shape) <= 2
        and tensor.numel < 1_000_000
        and re.fullmatch(r"clip_[lg]|emb_params|<.*>|string_to_param.*|\*", name)
        for name, tensor in header.tensors.items()
    )


def _is_text_encoder_alone(header: Header) -> bool:
    return _has_text_encoder(header) and not _has_unet(header)


def _is_other_architecture(header: Header) -> bool:
    return _has_unet(header) and not _has_unet_blocks(header)


# The first rule that matches names the file, so specific rules come before vague ones.
OTHER_MODELS = (
    Rule("a quantised model", "use a version in fp16, bf16 or fp32", _is_quantised),
    Rule(
        "a FLUX model",
        USE_SDXL,
        starts_with(rf"{_ANY_UNET}double_blocks\.0\.img_attn\.", r"single_transformer_blocks\.0\."),
    ),
    Rule(
        "a Stable Diffusion 3 model",
        USE_SDXL,
        starts_with(rf"{_ANY_UNET}joint_blocks\.", r"transformer_blocks\.0\.attn\.add_q_proj"),
    ),
    Rule(
        "a Playground v2.5 model, which has a noise schedule of its own",
        USE_SDXL,
        starts_with(r"edm_mean$"),
    ),
    Rule(
        "a ControlNet",
        _UNSUPPORTED,
        starts_with(
            r"control_model\.",
            r"input_hint_block\.",
            r"controlnet_(cond_embedding|down_blocks|mid_block)\.",
            r"lora_controlnet$",
        ),
    ),
    Rule("a motion module for video", _UNSUPPORTED, contains(r"motion_modules\.")),
    Rule(
        "an upscaler",
        _UNSUPPORTED,
        starts_with(r"(model\.)?(1\.sub|body\.0\.rdb|RRDB_trunk|conv_first)"),
    ),
    Rule(
        "the refiner of Stable Diffusion XL",
        "use the base checkpoint; Banatie does not use the refiner",
        _is_refiner,
    ),
    Rule("a UNet alone, without text encoders and VAE", USE_CHECKPOINT, _is_unet_alone),
    Rule("a VAE alone", _INCLUDED, _is_vae_alone),
    Rule("an embedding (textual inversion)", _UNSUPPORTED, _is_embedding),
    Rule(
        "a language model's weights alone",
        "import its folder, with config.json and the tokenizer",
        starts_with(r"(model\.)?layers\.0\.self_attn\.q_proj", r"transformer\.h\.0\.attn"),
    ),
    Rule("a text encoder alone", _INCLUDED, _is_text_encoder_alone),
    Rule(
        "a model of another architecture than Stable Diffusion XL",
        USE_SDXL,
        _is_other_architecture,
    ),
)

_has_lora_names = contains(
    r"lora_(up|down|mid|A|B|linear_layer)\b",
    r"lora_(unet|te\d?)_",
    r"[._]lora\.",
    r"hada_w|lokr_w|oft_blocks",
)
_has_checkpoint_names = starts_with(re.escape(UNET) + r"input_blocks\.", r"lora_controlnet$")


def is_lora(header: Header) -> bool:
    """Whether the tensors' names are those of a LoRA or a related adapter."""
    return _has_lora_names(header) and not _has_checkpoint_names(header)


LORA_CROSS_ATTENTION = re.compile(
    r"attn2[._](to_[kv]|processor\.to_[kv]_lora)\.?(lora_down|lora_A|lora\.down|down)\b.*weight"
)
"""The matrix that reads a text's embedding, as kohya's, diffusers' and peft's programs name it."""
LORA_DOWN = re.compile(r"(lora_down|lora_A|lora\.down|lora_linear_layer\.down)(\.\w+)?\.weight$")
LORA_PREFIXES = tuple(prefix for prefixes in PREFIXES.values() for prefix in prefixes)
"""They say which model of the pipeline a tensor belongs to."""
OTHER_ADAPTERS = (
    NamePattern(re.compile(r"hada_w"), "a LoHa"),
    NamePattern(re.compile(r"lokr_w"), "a LoKr"),
    NamePattern(re.compile(r"oft_"), "an OFT"),
    NamePattern(re.compile(r"dora_scale|lora_magnitude_vector"), "a DoRA"),
    NamePattern(re.compile(r"lora_mid"), "a LoRA with Tucker decomposition"),
    NamePattern(re.compile(r"\.diff(_b)?$"), "a LoRA with full weight differences"),
    NamePattern(re.compile(r"\.[wb]_norm$"), "a LoRA that changes norms"),
)
OTHER_BASES = (
    NamePattern(
        re.compile(r"(lora_unet_|transformer\.|diffusion_model\.)?(double|single)_blocks"), "FLUX"
    ),
    NamePattern(re.compile(r"transformer\.single_transformer_blocks"), "FLUX"),
    NamePattern(
        re.compile(r"(lora_unet_|transformer\.)?joint_blocks|transformer\.transformer_blocks"),
        "Stable Diffusion 3",
    ),
    NamePattern(re.compile(r"lora_te_"), "Stable Diffusion 1.x or 2.x"),
)
