"""Conversion of a single-file Stable Diffusion XL checkpoint into a folder in the diffusers layout.

The file holds only weights; the configurations come from a folder, by default those of `sdxl`.
Nothing is downloaded, and the weights are memory-mapped and keep their precision. Whether a file is
such a checkpoint is for `detect`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from safetensors import safe_open
from transformers.utils import logging as transformers_logging

from banatie.errors import ModelBroken
from banatie.models.convert.checkpoint_names import SURPLUS, Source, part_of, sources
from banatie.models.convert.structure import empty_models
from banatie.models.detect import INPAINTING_CHANNELS, DetectedFile
from banatie.models.safetensors_header import Tensor, read_header
from banatie.models.sdxl import write_configs
from banatie.models.validate import PIPELINE_CONFIGS, PIPELINE_MODELS

_DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float32}
"""The types that the weights keep; all others, float8 too, become float16."""


def convert(file: Path, detected: DetectedFile, folder: Path, configs: Path | None = None) -> None:
    """Write the checkpoint's pipeline into the empty `folder`.

    `configs` is a folder in the diffusers layout, of which everything but the weights is taken;
    None: SDXL's own. Raises ModelBroken when the weights do not fit it.
    """
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    if configs is None:
        write_configs(folder)
    else:
        _copy_configs(configs, folder)
    _set_training(folder / "scheduler" / "scheduler_config.json", detected)
    if detected.inpainting:
        _change(folder / "unet" / "config.json", {"in_channels": INPAINTING_CHANNELS})
    models = empty_models(folder)
    found = read_header(file).tensors
    places = {name: _places(file, found, name, models[name]) for name in PIPELINE_MODELS}
    dtype = _DTYPES.get(detected.dtype, torch.float16)
    with safe_open(file, "pt") as opened:
        for name, model in models.items():
            expected = model.state_dict()
            weights = {
                target: _read(opened, source, expected[target].shape, dtype)
                for target, source in places[name].items()
            }
            model.load_state_dict(weights, assign=True)
            model.save_pretrained(folder / name, safe_serialization=True)


def _places(
    file: Path, found: Mapping[str, Tensor], part: str, model: torch.nn.Module
) -> dict[str, Source]:
    """Where in the file each tensor of a model is.

    Raises ModelBroken, naming the tensor, when one is missing, has another shape than the
    configuration says, or has no place in the model.
    """
    expected = model.state_dict()
    places: dict[str, Source] = {}
    for target, candidates in sources(part, list(expected)):
        source = next((s for s in candidates if s.name in found), None)
        if source is None:
            raise _not_plain(file, f"its {part} lacks {target}")
        shape, wanted = found[source.name].shape, tuple(expected[target].shape)
        if _shape(shape, source, wanted) != wanted:
            has, should = ("×".join(map(str, each)) for each in (shape, wanted))
            raise _not_plain(
                file, f"in its {part} {source.name} is {has}, which should be {should}"
            )
        places[target] = source
    used = {source.name for source in places.values()}
    for name in found:
        if part_of(name) == part and name not in used and not SURPLUS.fullmatch(name):
            raise _not_plain(file, f"its {part} has {name}, which is not expected")
    return places


def _not_plain(file: Path, why: str) -> ModelBroken:
    return ModelBroken(
        f"{file.name} is not a plain Stable Diffusion XL: {why}; import the model's folder in the "
        "diffusers layout instead"
    )


def _shape(shape: tuple[int, ...], source: Source, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a tensor of the file has in the model."""
    if source.transposed:
        return shape[::-1]
    if source.third is not None:
        return (shape[0] // 3, *shape[1:]) if shape and shape[0] % 3 == 0 else ()
    # The VAE's attention was once made of convolutions of 1 × 1.
    return wanted if shape == (*wanted, 1, 1) else shape


def _read(opened: Any, source: Source, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    tensor: torch.Tensor = opened.get_tensor(source.name)
    if source.transposed:
        tensor = tensor.T
    if source.third is not None:
        # Without a copy three tensors would share one memory, which a file cannot hold.
        tensor = tensor.chunk(3)[source.third].clone()
    return tensor.to(dtype).reshape(shape).contiguous()


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
    if detected.prediction_marked:
        velocity = detected.predicts == "velocity"
        changes["prediction_type"] = "v_prediction" if velocity else "epsilon"
    if detected.zero_terminal_snr:
        # Such a model must start from pure noise (arXiv:2305.08891, section 3.3).
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if changes:
        _change(scheduler, changes)


def _change(file: Path, changes: Mapping[str, object]) -> None:
    config = json.loads(file.read_text("utf-8")) | changes
    file.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
