"""What the package carries of Stable Diffusion XL: CLIP's tokens and the components' sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from banatie.models.sdxl import write_configs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdxl")
    write_configs(folder)
    return folder


@pytest.mark.parametrize(("name", "padding"), [("tokenizer", 49407), ("tokenizer_2", 0)])
def test_the_tokenizers_give_clips_numbers(folder, name, padding):
    tokenizer = CLIPTokenizer.from_pretrained(folder / name, local_files_only=True)
    assert len(tokenizer) == 49408
    assert tokenizer.model_max_length == 77
    assert tokenizer.pad_token_id == padding
    begin, end = 49406, 49407
    assert tokenizer("a photo of a cat").input_ids == [begin, 320, 1125, 539, 320, 2368, end]
    padded = tokenizer("a photo of a cat", padding="max_length").input_ids
    assert padded == [begin, 320, 1125, 539, 320, 2368, end] + [padding] * 70
    # As OpenAI's own tokenizer has it: accents, numbers, other scripts and signs.
    text = "Émile's 3 CATS, naïve 日本 🙂  x"
    assert tokenizer(text).input_ids[1:-1] == [
        *(3459, 6243, 568, 274, 3989, 267, 1097, 35689, 563, 39121, 19277, 361, 14860, 343)
    ]


def test_the_parts_are_as_large_as_those_of_sdxl(folder):
    """The numbers of parameters are those of stabilityai/stable-diffusion-xl-base-1.0."""
    with init_empty_weights():
        models = {
            2_567_463_684: UNet2DConditionModel.from_config(
                UNet2DConditionModel.load_config(folder / "unet")
            ),
            83_653_863: AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
            123_060_480: CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
            694_659_840: CLIPTextModelWithProjection(
                CLIPTextConfig.from_pretrained(folder / "text_encoder_2")
            ),
        }
    for numbers, model in models.items():
        assert sum(weight.numel() for weight in model.parameters()) == numbers


def test_the_scheduler_is_the_one_sdxl_was_trained_for(folder):
    scheduler = EulerDiscreteScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    scheduler.set_timesteps(30)
    assert scheduler.config.prediction_type == "epsilon"
    assert (scheduler.timesteps[0], scheduler.timesteps[-1]) == (958, 1)
