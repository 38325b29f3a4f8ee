"""Conversion of a single-file Stable Diffusion XL checkpoint into a folder in the diffusers layout.

The file holds only weights; the configurations come from a folder, by default those of `sdxl`.
Nothing is downloaded, and the weights are memory-mapped and keep their precision. Whether a file is
such a checkpoint is for `detect`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

from banatie.errors import ModelBroken
from banatie.models.detect import DetectedFile
from banatie.models.detect_rules import TEXT_ENCODER, TEXT_ENCODER_2, UNET, VAES
from banatie.models.safetensors_header import Header, read_header
from banatie.models.sdxl import write_configs
from banatie.models.validate import PIPELINE_CONFIGS, PIPELINE_MODELS

_DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float32}
"""The types that the weights keep; all others, float8 too, become float16."""
_VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")


def convert(file: Path, detected: DetectedFile, folder: Path, configs: Path | None = None) -> None:
    """Write the checkpoint's pipeline into the empty `folder`.

    `configs` is a folder in the diffusers layout, of which everything but the weights is taken;
    None: SDXL's own. Raises ModelBroken when the weights do not fit it.
    """
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    # diffusers would list every tensor of the file that the pipeline has no use for.
    diffusers_logging.set_verbosity_error()
    if configs is None:
        write_configs(folder)
    else:
        _copy_configs(configs, folder)
    _set_training(folder / "scheduler" / "scheduler_config.json", detected)
    try:
        _check_parameter_counts(file, folder)
        pipeline = StableDiffusionXLPipeline.from_single_file(
            str(file),
            config=str(folder),
            torch_dtype=_DTYPES.get(detected.dtype, torch.float16),
            local_files_only=True,
            add_watermarker=False,
        )
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelBroken(
            f"{file.name} does not have the structure of Stable Diffusion XL ({reason}); "
            "take another file of the model"
        ) from error
    for name in PIPELINE_MODELS:
        getattr(pipeline, name).save_pretrained(folder / name, safe_serialization=True)


def _check_parameter_counts(file: Path, folder: Path) -> None:
    """Check that each model has exactly as many parameters as its configuration says.

    diffusers would silently ignore tensors that it has no place for.
    """
    header = read_header(file)
    for name, expected in _expected_counts(folder):
        found = _parameter_count(header, name)
        if found != expected:
            raise ModelBroken(
                f"{file.name} is not a plain Stable Diffusion XL: its {name} has {found:,} "
                f"parameters, not {expected:,}; import the model's folder in the diffusers layout "
                "instead"
            )


def _expected_counts(folder: Path) -> Iterator[tuple[str, int]]:
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(
            UNet2DConditionModel.load_config(folder / "unet", local_files_only=True)
        )
        vae = AutoencoderKL.from_config(
            AutoencoderKL.load_config(folder / "vae", local_files_only=True)
        )
        one = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
        two = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(folder / "text_encoder_2"))
    models = {"unet": unet, "vae": vae, "text_encoder": one, "text_encoder_2": two}
    for name, model in models.items():
        yield name, sum(weight.numel() for weight in model.parameters())


def _parameter_count(header: Header, name: str) -> int:
    def counts(key: str) -> bool:
        if name == "vae":
            return any(key.startswith(vae + part) for vae in VAES for part in _VAE_PARTS)
        start = {"unet": UNET, "text_encoder": TEXT_ENCODER, "text_encoder_2": TEXT_ENCODER_2}[name]
        # Position indices are no parameters, and the logit scale serves only to compare images.
        return key.startswith(start) and not key.endswith(("position_ids", "logit_scale"))

    return sum(tensor.numel for key, tensor in header.tensors.items() if counts(key))


def _copy_configs(configs: Path, folder: Path) -> None:
    parts = (*PIPELINE_MODELS, *PIPELINE_CONFIGS)
    wanted = [
        configs / "model_index.json",
        *(f for part in parts for f in configs.glob(f"{part}/*")),
    ]
    for source in wanted:
        if source.suffix in (".json", ".txt") and not source.name.endswith(".index.json"):
            target = folder / source.relative_to(configs)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)


def _set_training(scheduler: Path, detected: DetectedFile) -> None:
    changes: dict[str, object] = {}
    if detected.predicts == "velocity":
        changes["prediction_type"] = "v_prediction"
    if detected.zero_terminal_snr:
        # Such a model must start from pure noise (arXiv:2305.08891, section 3.3).
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if changes:
        config = json.loads(scheduler.read_text("utf-8")) | changes
        scheduler.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
