"""What a single file of weights is, told by the names and shapes in its head.

One file may be a whole Stable Diffusion XL checkpoint, a LoRA for it, or one of the many things
that lie beside them on the same web pages. Only the first bytes are read, nothing is loaded, and
what does not fit is refused by naming it. Never imports torch; how a checkpoint is converted is
told in `conversion`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from banatie.errors import ModelBroken, ModelNotFound
from banatie.models.validate import Header, read_header

UNET = "model.diffusion_model."
"""How the UNet's tensors begin in a checkpoint of the original layout."""
TEXT_ENCODER = "conditioner.embedders.0."
TEXT_ENCODER_2 = "conditioner.embedders.1."
VAES = ("first_stage_model.", "vae.")

SDXL_WIDTH = 2048
"""Of the text embeddings that SDXL's UNet attends to: its cross_attention_dim."""
_BASES = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    1280: "the refiner of Stable Diffusion XL",
    SDXL_WIDTH: "Stable Diffusion XL",
}
_PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl", ".pickle")
_BEGINNINGS = (
    (b"GGUF", "a GGUF file, with quantised weights", "take the .safetensors version of the model"),
    (b"PK\x03\x04", "a zip archive or a pickle", "take the .safetensors version of the model"),
    (b"\x80", "a pickle", "take the .safetensors version of the model"),
    (b"\x89PNG", "a picture", "take the model's own file"),
    (b"\xff\xd8\xff", "a picture", "take the model's own file"),
    (b"<", "a web page", "the site wanted something first, a login perhaps: download it again"),
    (b"version https://git-lfs", "a git-lfs pointer", "fetch the file itself with: git lfs pull"),
)
_USE_WHOLE = "take the whole checkpoint, about 6.9 GB, or a folder in the diffusers layout"
_USE_XL = "Banatie paints with Stable Diffusion XL: take a checkpoint of that"
_USE_XL_LORA = "take one that was made for Stable Diffusion XL"
_NO_NEED = "there is no use for it here; import a checkpoint or a LoRA"

Format = Literal["checkpoint", "lora"]


@dataclass(frozen=True)
class DetectedFile:
    """A file that can be imported."""

    format: Format
    dtype: str
    """Of most of its numbers, as the safetensors format names it."""
    title: str = ""
    """The file's own words, empty where it has none; so with the licence."""
    licence: str = ""
    predicts: Literal["noise", "velocity"] = "noise"
    """What a checkpoint's UNet was trained to tell (arXiv:2202.00512, section 4)."""
    ends_in_noise: bool = False
    """Whether its last timestep is nothing but noise (zero terminal SNR, arXiv:2305.08891)."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of a LoRA: its rank, and its trigger words or most frequent tags, where they are told."""


def detect(file: Path, width: int = SDXL_WIDTH) -> DetectedFile:
    """What the file is, for a UNet that attends to embeddings of this width.

    Raises ModelNotFound, or ModelBroken that names what it is and what to do.
    """
    if file.suffix.lower() in _PICKLES:
        raise ModelBroken(
            f"{file.name} is a pickle, which can run any program that is hidden in it when it is "
            "loaded, so it is not even opened; take the .safetensors version of the model"
        )
    try:
        with file.open("rb") as opened:
            beginning = opened.read(32)
    except FileNotFoundError:
        raise ModelNotFound(f"there is no file {file}") from None
    except OSError as error:
        raise ModelBroken(f"{file} cannot be read ({error.strerror})") from error
    for start, what, remedy in _BEGINNINGS:
        # After the head's length, which may look like anything, a safetensors file has its brace.
        if beginning.startswith(start) and beginning[8:9] != b"{":
            raise ModelBroken(f"{file.name} is {what}; {remedy}")
    if file.suffix.lower() != ".safetensors":
        raise ModelBroken(
            f"{file.name} is no file that Banatie takes; those are .safetensors, folders in the "
            "diffusers layout and .tar archives of its own"
        )
    head = read_header(file)
    if _is_lora(head):
        return _lora(file, head, width)
    _refuse(file, head, width)
    predicts, ends_in_noise = _training(head)
    return DetectedFile(
        "checkpoint",
        _dtype(head),
        head.metadata.get("modelspec.title", ""),
        head.metadata.get("modelspec.license", ""),
        predicts,
        ends_in_noise,
    )


def _refuse(file: Path, head: Header, width: int) -> None:
    """Raise ModelBroken for everything that is no whole SDXL checkpoint."""
    for what, remedy, fits in _OTHERS:
        if fits(head):
            raise ModelBroken(f"{file.name} is {what}; {remedy}")
    first = head.tensors.get(f"{UNET}input_blocks.0.0.weight")
    attended = _attended_width(head)
    if first is None or len(first.shape) != 4 or attended is None:
        example = next(iter(head.tensors), "none at all")
        raise ModelBroken(
            f"{file.name} is no model that Banatie knows (its tensors have names like "
            f"{example[:80]!r}); import a Stable Diffusion XL checkpoint or a LoRA for one"
        )
    base = _base(SDXL_WIDTH if attended == width else attended)
    channels = first.shape[1]
    if channels != 4:
        kind = {9: "for inpainting", 8: "for editing pictures", 5: "for depth maps"}.get(channels)
        raise ModelBroken(
            f"{file.name} is a checkpoint of {base} {kind or 'of a kind of its own'} "
            f"({channels} input channels); take the base version, which has 4"
        )
    if attended != width:
        raise ModelBroken(f"{file.name} is a checkpoint of {base}; {_USE_XL}")
    lacking = [
        name
        for name, starts in (
            ("text encoders", (TEXT_ENCODER,)),
            ("second text encoder", (TEXT_ENCODER_2,)),
            ("VAE", VAES),
        )
        if not any(key.startswith(starts) for key in head.tensors)
    ]
    if lacking:
        raise ModelBroken(
            f"{file.name} is a checkpoint of {base} without its {lacking[0]}; {_USE_WHOLE}"
        )


def _has(*patterns: str) -> Callable[[Header], bool]:
    """Whether a tensor's name matches one of these at its beginning."""
    pattern = re.compile("|".join(patterns))
    return lambda head: any(pattern.match(name) for name in head.tensors)


def _contains(*patterns: str) -> Callable[[Header], bool]:
    pattern = re.compile("|".join(patterns))
    return lambda head: any(pattern.search(name) for name in head.tensors)


def _is_quantised(head: Header) -> bool:
    total = sum(tensor.numel for tensor in head.tensors.values())
    whole = sum(
        tensor.numel for tensor in head.tensors.values() if tensor.dtype[0] in "IU" and total
    )
    return whole > total / 2


def _is_embedding(head: Header) -> bool:
    return 0 < len(head.tensors) <= 4 and all(
        len(tensor.shape) <= 2
        and tensor.numel < 1_000_000
        and re.fullmatch(r"clip_[lg]|emb_params|<.*>|string_to_param.*|\*", name)
        for name, tensor in head.tensors.items()
    )


def _is_unet_alone(head: Header) -> bool:
    return "input_blocks.0.0.weight" in head.tensors


_ANY_UNET = f"({re.escape(UNET)})?"
# The first that fits is what a file is said to be, so the plainer marks come before the vaguer.
_OTHERS: tuple[tuple[str, str, Callable[[Header], bool]], ...] = (
    (
        "a quantised model",
        "take a version in fp16, bf16 or fp32",
        lambda head: (
            _contains(
                r"\.absmax$",
                r"quant_state",
                r"(scale_weight|weight_scale|scale_input)$",
                r"scaled_fp8$",
            )(head)
            or _is_quantised(head)
        ),
    ),
    (
        "a FLUX model",
        _USE_XL,
        _has(rf"{_ANY_UNET}double_blocks\.0\.img_attn\.", r"single_transformer_blocks\.0\."),
    ),
    (
        "a Stable Diffusion 3 model",
        _USE_XL,
        _has(rf"{_ANY_UNET}joint_blocks\.", r"transformer_blocks\.0\.attn\.add_q_proj"),
    ),
    ("a Playground v2.5 model, which is noised in its own way", _USE_XL, _has(r"edm_mean$")),
    ("an IP-Adapter", _NO_NEED, _has(r"ip_adapter\.", r"image_proj\.")),
    (
        "a ControlNet",
        _NO_NEED,
        _has(
            r"control_model\.",
            r"input_hint_block\.",
            r"controlnet_(cond_embedding|down_blocks|mid_block)\.",
            r"lora_controlnet$",
        ),
    ),
    ("a motion module for video", _NO_NEED, _contains(r"motion_modules\.")),
    ("an upscaler", _NO_NEED, _has(r"(model\.)?(1\.sub|body\.0\.rdb|RRDB_trunk|conv_first)")),
    (
        "the refiner of Stable Diffusion XL",
        "take the base checkpoint; the refiner is not used here",
        lambda head: (
            _has(r"conditioner\.embedders\.0\.model\.")(head)
            and not _has(re.escape(TEXT_ENCODER_2))(head)
        ),
    ),
    (
        "a UNet alone, without text encoders and VAE",
        _USE_WHOLE,
        lambda head: (
            _is_unet_alone(head)
            or (_has(r"down_blocks\.0\.resnets\.")(head) and "conv_in.weight" in head.tensors)
        ),
    ),
    (
        "a VAE alone",
        "import a checkpoint, which brings its own",
        lambda head: (
            not _has(re.escape(UNET))(head)
            and _has(r"(first_stage_model\.|vae\.)?(encoder|decoder)\.(conv_in|mid|up|down)")(head)
        ),
    ),
    ("an embedding (textual inversion)", _NO_NEED, _is_embedding),
    (
        "a language model's weights alone",
        "import its folder, with config.json and the tokenizer",
        _has(r"(model\.)?layers\.0\.self_attn\.q_proj", r"transformer\.h\.0\.attn"),
    ),
    (
        "a text encoder alone",
        "import a checkpoint, which brings its own",
        lambda head: (
            not _has(re.escape(UNET))(head)
            and _has(
                r"(transformer\.)?(text_model\.)?(encoder|embeddings|resblocks)\.",
                r"encoder\.block\.0\.layer\.0",
                r"transformer\.resblocks\.",
            )(head)
        ),
    ),
    (
        "a model of another architecture than Stable Diffusion XL",
        _USE_XL,
        lambda head: (
            _has(re.escape(UNET))(head) and not _has(re.escape(UNET) + r"input_blocks\.")(head)
        ),
    ),
)

_LORA = re.compile(
    r"lora_(up|down|mid|A|B|linear_layer)\b|lora_(unet|te\d?)_|[._]lora\.|hada_w|lokr_w|oft_blocks"
)
# The matrix that reads a text's embedding, as kohya's, diffusers' and peft's programs name it.
_LORA_ATTENDING = re.compile(
    r"attn2[._](to_[kv]|processor\.to_[kv]_lora)\.?(lora_down|lora_A|lora\.down|down)\b.*weight"
)
_LORA_DOWN = re.compile(r"(lora_down|lora_A|lora\.down|_lora\.down)(\.\w+)?\.weight$")
_LORA_MODELS = (
    *("unet.", "text_encoder.", "text_encoder_2."),
    *("lora_unet_", "lora_te1_", "lora_te2_"),
)
_OTHER_WAYS = (
    (re.compile(r"hada_w"), "a LoHa"),
    (re.compile(r"lokr_w"), "a LoKr"),
    (re.compile(r"oft_"), "an OFT"),
    (re.compile(r"dora_scale|lora_magnitude_vector"), "a DoRA"),
    (re.compile(r"lora_mid"), "a LoRA with Tucker decomposition"),
    (re.compile(r"\.diff(_b)?$"), "a LoRA with whole differences"),
    (re.compile(r"\.[wb]_norm$"), "a LoRA that changes norms"),
)
_OTHER_LORAS = (
    (re.compile(r"(lora_unet_|transformer\.|diffusion_model\.)?(double|single)_blocks"), "FLUX"),
    (re.compile(r"transformer\.single_transformer_blocks"), "FLUX"),
    (
        re.compile(r"(lora_unet_|transformer\.)?joint_blocks|transformer\.transformer_blocks"),
        "Stable Diffusion 3",
    ),
    (re.compile(r"lora_te_"), "Stable Diffusion 1.x or 2.x"),
)


def _is_lora(head: Header) -> bool:
    return any(_LORA.search(name) for name in head.tensors) and not _has(
        re.escape(UNET) + r"input_blocks\.", r"lora_controlnet$"
    )(head)


def _lora(file: Path, head: Header, width: int) -> DetectedFile:
    for pattern, what in _OTHER_WAYS:
        if any(pattern.search(name) for name in head.tensors):
            raise ModelBroken(
                f"{file.name} is {what}, a kind of adapter that Banatie cannot apply; "
                "take a plain LoRA"
            )
    attended = {
        tensor.shape[1]
        for name, tensor in head.tensors.items()
        if _LORA_ATTENDING.search(name) and len(tensor.shape) == 2
    }
    if attended and attended != {width}:
        raise ModelBroken(f"{file.name} is a LoRA for {_base(min(attended))}; {_USE_XL_LORA}")
    if not attended:
        for pattern, base in _OTHER_LORAS:
            if any(pattern.match(name) for name in head.tensors):
                raise ModelBroken(f"{file.name} is a LoRA for {base}; {_USE_XL_LORA}")
    downs = [t.shape[0] for n, t in head.tensors.items() if _LORA_DOWN.search(n) and t.shape]
    if not downs:
        raise ModelBroken(
            f"{file.name} calls itself a LoRA, but none of its tensors is the half of one; "
            "download it again"
        )
    if strange := [name for name in head.tensors if not name.startswith(_LORA_MODELS)]:
        raise ModelBroken(
            f"{file.name} is a LoRA whose names do not say which model they are for "
            f"({strange[0][:80]!r}); take a version in kohya's or diffusers' form"
        )
    title = head.metadata.get("modelspec.title") or head.metadata.get("ss_output_name", "")
    settings: dict[str, Any] = {"rank": max(downs)}
    if trigger := head.metadata.get("modelspec.trigger_phrase", "").strip():
        settings["trigger_words"] = [word.strip() for word in trigger.split(",") if word.strip()]
    elif tags := _frequent_tags(head):
        settings["frequent_tags"] = tags
    licence = head.metadata.get("modelspec.license", "")
    return DetectedFile("lora", _dtype(head), title, licence, settings=settings)


def _base(width: int) -> str:
    return _BASES.get(width, f"a model that reads embeddings {width} wide")


def _attended_width(head: Header) -> int | None:
    """How wide the embeddings are that the UNet attends to."""
    for name, tensor in head.tensors.items():
        if name.startswith(UNET) and name.endswith("attn2.to_k.weight") and tensor.shape:
            return tensor.shape[-1]
    return None


def _training(head: Header) -> tuple[Literal["noise", "velocity"], bool]:
    # The marks of NoobAI's and Illustrious' trainers, and of those who write the model's card into
    # the file (https://github.com/Stability-AI/ModelSpec).
    ends_in_noise = "ztsnr" in head.tensors
    told = head.metadata.get("modelspec.prediction_type", "").lower()
    velocity = "v_pred" in head.tensors or told in ("v", "v_prediction", "v-prediction")
    return "velocity" if velocity else "noise", ends_in_noise


def _dtype(head: Header) -> str:
    amounts: Counter[str] = Counter()
    for tensor in head.tensors.values():
        amounts[tensor.dtype] += tensor.numel
    return amounts.most_common(1)[0][0]


def _frequent_tags(head: Header) -> list[str]:
    """The five tags that kohya's trainer has seen most often; none where it does not say."""
    try:
        folders = json.loads(head.metadata.get("ss_tag_frequency", "{}"))
        counts: Counter[str] = Counter()
        for tags in folders.values():
            counts.update({tag.strip(): int(number) for tag, number in tags.items()})
    except (ValueError, TypeError, AttributeError):
        return []
    return [tag for tag, _ in counts.most_common(5) if tag]
