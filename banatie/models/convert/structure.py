"""What a pipeline's configurations expect: its models without weights, and the layers in them.

The models are built on torch's device "meta", which knows names and shapes and takes no memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from banatie.errors import ModelBroken
from banatie.models.convert.lora_names import PARTS, Part, canonical_layer
from banatie.models.sdxl import write_configs

Shape = tuple[int, ...]
Layers = Mapping[Part, Mapping[str, Shape]]
"""Of each model, the shapes of the weights that a LoRA can change, by diffusers' names of them."""


def empty_models(folder: Path) -> dict[str, torch.nn.Module]:
    """The models of a pipeline's folder, by their names, without weights.

    Raises ModelBroken when a configuration describes none.
    """
    try:
        with init_empty_weights():
            return {
                "unet": UNet2DConditionModel.from_config(
                    UNet2DConditionModel.load_config(folder / "unet", local_files_only=True)
                ),
                "vae": AutoencoderKL.from_config(
                    AutoencoderKL.load_config(folder / "vae", local_files_only=True)
                ),
                "text_encoder": CLIPTextModel(
                    CLIPTextConfig.from_pretrained(folder / "text_encoder")
                ),
                "text_encoder_2": CLIPTextModelWithProjection(
                    CLIPTextConfig.from_pretrained(folder / "text_encoder_2")
                ),
            }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelBroken(
            f"the configurations in {folder} do not describe a Stable Diffusion XL ({reason}); "
            "name another folder"
        ) from error


def layers_of(configs: Path | None) -> Layers:
    """The layers that a LoRA can change: of a folder's pipeline, or of SDXL 1.0 without one."""
    return lora_layers(empty_models(configs)) if configs else sdxl_layers()


@cache
def sdxl_layers() -> Layers:
    """The layers of Stable Diffusion XL 1.0 that a LoRA can change."""
    with TemporaryDirectory() as folder:
        write_configs(Path(folder))
        return lora_layers(empty_models(Path(folder)))


def lora_layers(models: Mapping[str, torch.nn.Module]) -> Layers:
    """The layers of a pipeline's models that a LoRA can change."""
    return {
        part: {
            canonical_layer(part, name): tuple(module.weight.shape)
            for name, module in models[part].named_modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        }
        for part in PARTS
    }
