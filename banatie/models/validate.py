"""Whether a model's folder is complete: what can be found out without loading the model.

Reads file names, JSON and safetensors headers. Whether a model can paint or write is found out by
`painting` and `enhancement`, which check here first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from banatie.errors import ModelBroken, ModelNotFound
from banatie.models.ip_adapter import check_ip_adapter
from banatie.models.manifest import Kind
from banatie.models.safetensors_header import read_summary

PIPELINE_CLASS = "StableDiffusionXLPipeline"
PIPELINE_CLASSES = (PIPELINE_CLASS, "StableDiffusionXLInpaintPipeline")
PIPELINE_MODELS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}
"""The components of a pipeline that have weights, and their classes."""
PIPELINE_CONFIGS = ("tokenizer", "tokenizer_2", "scheduler")
"""The components without weights."""

SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
"""The diffusers schedulers that a Stable Diffusion XL pipeline can paint with."""
_PREDICTIONS = ("epsilon", "v_prediction", "sample")
_PURPOSES = {8: " for editing images"}

_WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|model)(\.fp16)?(-\d+-of-\d+)?(\.fp16)?\.safetensors"
)


def check_model(kind: Kind, folder: Path) -> None:
    """Check a model's folder by its kind. Raises ModelNotFound or ModelBroken."""
    if kind == "painting":
        check_pipeline(folder)
    elif kind == "language":
        check_language_model(folder)
    elif kind == "ip-adapter":
        check_ip_adapter(folder)
    else:
        for weights in folder.rglob("*.safetensors"):
            read_summary(weights)


def check_pipeline(folder: Path) -> dict[str, list[Path]]:
    """Check a pipeline's folder; the weight files of each of its models.

    Raises ModelNotFound or ModelBroken, naming the file and the remedy.
    """
    if not folder.is_dir():
        raise ModelNotFound(f"{folder} does not exist; set painting.model to a folder that does")
    index_file = folder / "model_index.json"
    try:
        index = json.loads(index_file.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelBroken(
            f"{index_file} is missing: {folder} is not a pipeline in the diffusers layout; copy "
            "the model's folder again"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelBroken(f"{index_file} cannot be read ({error}); copy it again") from error
    found = index.get("_class_name") if isinstance(index, dict) else None
    if found not in PIPELINE_CLASSES:
        raise ModelBroken(
            f"{index_file} describes a {found}, but Banatie paints with a "
            f"{PIPELINE_CLASS}; set painting.model to such a folder"
        )
    for name in (*PIPELINE_MODELS, *PIPELINE_CONFIGS):
        if not (folder / name).is_dir():
            raise ModelBroken(f"{folder / name} is missing; copy the model's folder again")
        entry = index.get(name)
        library, class_name = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        expected = PIPELINE_MODELS.get(name)
        if library is None or (expected is not None and class_name != expected):
            wanted = f"not a {expected}" if expected else "which is nothing"
            raise ModelBroken(
                f"{index_file} says that {name} is a {class_name}, {wanted}; "
                "set painting.model to a Stable Diffusion XL pipeline's folder"
            )
    _check_scheduler(folder, index)
    _check_unet(folder)
    return {name: check_weights(folder / name) for name in PIPELINE_MODELS}


def _check_scheduler(folder: Path, index: Mapping[str, Any]) -> None:
    """Raises ModelBroken for a scheduler that no picture could be painted with."""
    name = str(index["scheduler"][1])
    file = folder / "scheduler" / "scheduler_config.json"
    config = _read_config(file)
    flows = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if "FlowMatch" in name or flows:
        raise ModelBroken(
            f"{file} describes flow matching ({name}), which Stable Diffusion XL does not use; use "
            "another folder"
        )
    if name not in SCHEDULERS:
        raise ModelBroken(
            f"{folder / 'model_index.json'} names the scheduler {name}, which Banatie does not "
            f"know; known are: {', '.join(SCHEDULERS)}"
        )
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise ModelBroken(
            f"{file} says that the model predicts {prediction!r}, and not one of "
            f"{', '.join(_PREDICTIONS)}; use another folder"
        )


def _check_unet(folder: Path) -> None:
    """Raises ModelBroken for a UNet that takes other than the VAE's latents.

    One for inpainting takes them twice, and a mask.
    """
    file = folder / "unet" / "config.json"
    unet, vae = _read_config(file), _read_config(folder / "vae" / "config.json")
    latent = vae.get("latent_channels", 4)
    for direction in ("in", "out"):
        channels = unet.get(f"{direction}_channels", 4)
        if channels != latent and (direction, channels) != ("in", 2 * latent + 1):
            purpose = _PURPOSES.get(channels, "") if direction == "in" else ""
            raise ModelBroken(
                f"{file} describes a UNet{purpose} with {channels} {direction}put channels, but "
                f"the VAE has {latent}; use the base version of the model"
            )


def _read_config(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelBroken(f"{file} cannot be read ({error}); copy it again") from error


def check_language_model(folder: Path) -> list[Path]:
    """Check a language model's folder; its weight files. Raises ModelBroken, naming the file."""
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        file = folder / name
        # Some tokenizers are stored in other files.
        if name != "config.json" and not file.exists():
            continue
        try:
            json.loads(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ModelBroken(f"{file} cannot be read ({error}); copy it again") from error
    files = check_weights(folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelBroken(f"{index} cannot be read ({error}); copy it again") from error
        if missing := sorted(named - {file.name for file in files}):
            raise ModelBroken(f"{folder / missing[0]} is missing; copy the model's folder again")
    return files


def check_weights(folder: Path) -> list[Path]:
    """The weight files to load: full precision, or `fp16` where there is nothing else."""
    files = sorted(path for path in folder.iterdir() if is_weights(path.name))
    files = [path for path in files if not is_half_precision(path.name)] or files
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


def is_half_precision(name: str) -> bool:
    """Whether a weight file's name says that it is in half precision."""
    return ".fp16" in name
