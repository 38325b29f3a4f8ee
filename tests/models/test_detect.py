"""Detection of single files by their header: each kind published on the web is named in a line."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest

from banatie.errors import ModelBroken, ModelNotFound
from banatie.models.detect import detect
from tests.support.single_files import write_empty_file

U = "model.diffusion_model."


def checkpoint(attended: int = 2048, channels: int = 4, **without: bool) -> dict[str, tuple]:
    """Names and shapes by which a checkpoint is known, if hardly any of its tensors."""
    tensors = {
        U + "input_blocks.0.0.weight": (32, channels, 3, 3),
        U + "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (64, attended),
        "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight": (
            7,
            9,
        ),
        "conditioner.embedders.1.model.positional_embedding": (7, 9),
        "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
    }
    return {n: s for n, s in tensors.items() if not any(n.startswith(w) for w in without)}


def lora(attended: int, name: str = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"):
    return {
        f"{name}.lora_down.weight": (8, attended),
        f"{name}.lora_up.weight": (64, 8),
        f"{name}.alpha": (),
    }


KINDS = {
    "a checkpoint of Stable Diffusion 1.x;": {
        U + "input_blocks.0.0.weight": (32, 4, 3, 3),
        U + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (32, 768),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (9, 768),
        "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
    },
    "a checkpoint of Stable Diffusion 1.x for inpainting (9 input channels)": {
        U + "input_blocks.0.0.weight": (32, 9, 3, 3),
        U + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (32, 768),
    },
    "a checkpoint of Stable Diffusion 2.x": {
        U + "input_blocks.0.0.weight": (32, 4, 3, 3),
        U + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (32, 1024),
        "cond_stage_model.model.positional_embedding": (7, 9),
    },
    "the refiner of Stable Diffusion XL; use the base": {
        U + "input_blocks.0.0.weight": (32, 4, 3, 3),
        U + "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (64, 1280),
        "conditioner.embedders.0.model.positional_embedding": (7, 9),
    },
    "a checkpoint of Stable Diffusion XL for editing images": checkpoint(channels=8),
    "a checkpoint of Stable Diffusion XL for another purpose (7 input": checkpoint(channels=7),
    "a checkpoint of a model that reads embeddings 99 wide": checkpoint(attended=99),
    "a checkpoint of Stable Diffusion XL without its text encoders": checkpoint(conditioner=True),
    "a checkpoint of Stable Diffusion XL without its second text encoder": checkpoint(
        **{"conditioner.embedders.1": True}
    ),
    "a checkpoint of Stable Diffusion XL without its VAE": checkpoint(first_stage_model=True),
    "a Playground v2.5 model": {**checkpoint(), "edm_mean": (4,), "edm_std": (4,)},
    "a FLUX model": {U + "double_blocks.0.img_attn.norm.key_norm.scale": (128,)},
    "a FLUX model; ": {"double_blocks.0.img_attn.qkv.weight": (12, 4)},
    "a Stable Diffusion 3 model": {U + "joint_blocks.0.context_block.attn.qkv.weight": (12, 4)},
    "a model of another architecture": {U + "layers.0.adaLN_modulation.0.weight": (12, 4)},
    "a ControlNet": {
        "control_model.input_blocks.0.0.weight": (32, 4, 3, 3),
        "control_model.input_hint_block.0.weight": (16, 3, 3, 3),
    },
    "a ControlNet;": {
        "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
        "down_blocks.0.resnets.0.norm1.weight": (32,),
        "conv_in.weight": (32, 4, 3, 3),
    },
    "an IP-Adapter for Stable Diffusion 1.x": {
        **{f"image_proj.{name}": (8, 8) for name in ("proj.weight", "proj.bias")},
        **{f"image_proj.{name}": (8,) for name in ("norm.weight", "norm.bias")},
        "ip_adapter.1.to_k_ip.weight": (8, 768),
    },
    "an IP-Adapter for faces": {
        "image_proj.proj.0.weight": (8, 8),
        "ip_adapter.1.to_k_ip.weight": (8, 2048),
    },
    "a motion module": {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (8,)},
    "a UNet alone": {"input_blocks.0.0.weight": (32, 4, 3, 3), "time_embed.0.weight": (9, 9)},
    "a UNet alone, ": {
        "down_blocks.0.resnets.0.norm1.weight": (32,),
        "conv_in.weight": (32, 4, 3, 3),
    },
    "a VAE alone": {
        "encoder.conv_in.weight": (8, 3, 3, 3),
        "decoder.conv_in.weight": (8, 4, 3, 3),
        "decoder.up.0.block.0.conv1.weight": (8, 8, 3, 3),
    },
    "a VAE alone;": {"first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3)},
    "a text encoder alone": {"text_model.embeddings.token_embedding.weight": (9, 9)},
    "a text encoder alone;": {"encoder.block.0.layer.0.SelfAttention.k.weight": (9, 9)},
    "an embedding (textual inversion)": {"clip_l": (4, 768), "clip_g": (4, 1280)},
    "an embedding (textual inversion);": {"emb_params": (4, 768)},
    "a language model's weights alone": {"model.layers.0.self_attn.q_proj.weight": (9, 9)},
    "an upscaler": {"body.0.rdb1.conv1.weight": (8, 8, 3, 3), "conv_first.weight": (8, 3, 3, 3)},
    "a quantised model": {**checkpoint(), U + "out.2.weight.absmax": (4,)},
    "a quantised model; ": {**checkpoint(), "scaled_fp8": (2,)},
    "an unknown kind of model (its tensors have names like 'weights')": {"weights": (2, 2)},
    "an unknown kind of model (its tensors have names like 'none at all')": {},
    "a LoRA for Stable Diffusion 1.x;": lora(768),
    "a LoRA for Stable Diffusion 2.x;": lora(1024),
    "a LoRA for Stable Diffusion 1.x": lora(
        768, "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
    ),
    "a LoRA for Stable Diffusion 1.x or 2.x": {
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 768)
    },
    "a LoRA for FLUX": {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (8, 3072)},
    "a LoRA for FLUX;": {
        "transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": (8, 3072)
    },
    "a LoRA for Stable Diffusion 3": {
        "transformer.transformer_blocks.0.attn.to_k.lora_A.weight": (8, 1536)
    },
    "a LoRA whose names do not say which model": lora(
        2048, "base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"
    ),
    "a LoHa": {"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": (8, 8)},
    "a LoKr": {"lora_unet_mid_block_attentions_0_proj_in.lokr_w1": (8, 8)},
    "a DoRA": {
        **lora(2048),
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.dora_scale": (64, 1),
    },
    "a LoRA with Tucker": {"lora_unet_out_2.lora_mid.weight": (8, 8, 3, 3)},
    "a LoRA with full weight differences": {**lora(2048), "lora_unet_out_2.diff": (4, 8, 3, 3)},
    "a LoRA that changes norms": {**lora(2048), "lora_unet_out_0.w_norm": (8,)},
    "has a LoRA's names": {"lora_unet_out_2.lora_up.weight": (8, 8)},
}


@pytest.mark.parametrize("what", KINDS)
def test_what_does_not_fit_is_named_in_one_line_with_what_to_do(tmp_path, what):
    file = write_empty_file(tmp_path / "found.safetensors", KINDS[what])
    with pytest.raises(ModelBroken) as caught:
        detect(file)
    message = str(caught.value)
    assert re.match(rf"found\.safetensors (is )?{re.escape(what)}", message), message
    assert "; " in message
    assert "\n" not in message
    assert len(message) < 250


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt", ".pth", ".PTH"])
def test_a_pickle_is_refused_before_it_is_opened(tmp_path, suffix):
    # Not even there: whoever wanted to read it would say so.
    with pytest.raises(ModelBroken, match=r"can execute code.*use the .safetensors version"):
        detect(tmp_path / f"model{suffix}")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"GGUF\x03\0\0\0" + bytes(99), "a GGUF file"),
        (pickle.dumps({"state_dict": {}}), "a pickle"),
        (b"PK\x03\x04" + bytes(99), "a zip archive or a pickle"),
        (b"<!DOCTYPE html><html>", "a web page; the site may require a login"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n", "an image"),
        (b"", "its header is cut off"),
        (bytes(2000), "its header is cut off"),
    ],
)
def test_a_file_that_is_something_else_under_this_name_is_told(tmp_path, content, what):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelBroken, match=re.escape(what)):
        detect(file)


@pytest.mark.parametrize("name", ["model.txt", "model.zip", "model"])
def test_a_file_of_another_name_is_not_looked_into(tmp_path, name):
    file = write_empty_file(tmp_path / name, checkpoint())
    with pytest.raises(ModelBroken, match="cannot be imported; Banatie imports"):
        detect(file)


@pytest.mark.parametrize("length", [ord("<"), 0x80, 0x0480])
def test_a_head_whose_length_looks_like_something_else_is_read(tmp_path, length):
    text = json.dumps({"weights": {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}})
    file = tmp_path / "model.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + text.ljust(length).encode()[:length])
    with pytest.raises(
        ModelBroken, match="names like 'weights'" if length > len(text) else "is incomplete"
    ):
        detect(file)


def test_a_download_that_ended_early_is_told(tmp_path):
    file = write_empty_file(tmp_path / "model.safetensors", checkpoint())
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1)
    with pytest.raises(ModelBroken, match="is incomplete"):
        detect(file)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ModelNotFound, match=r"the file .* does not exist"):
        detect(tmp_path / "model.safetensors")


def test_a_checkpoint_says_what_it_is_kept_in_and_what_it_was_taught(tmp_path):
    found = detect(write_empty_file(tmp_path / "a.safetensors", checkpoint(), "BF16"))
    assert (found.format, found.dtype) == ("checkpoint", "BF16")
    assert (found.predicts, found.zero_terminal_snr) == ("noise", False)
    marked = {**checkpoint(), "v_pred": (0,), "ztsnr": (0,)}
    found = detect(write_empty_file(tmp_path / "b.safetensors", marked))
    assert (found.predicts, found.zero_terminal_snr) == ("velocity", True)


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    ],
)
def test_loras_for_sdxl_are_known_whoever_wrote_them(tmp_path, name):
    found = detect(write_empty_file(tmp_path / "a.safetensors", lora(2048, name)))
    assert found.format == "lora"
    assert found.settings == {"rank": 8}
    halves = {f"{name}.lora_A.weight": (4, 2048), f"{name}.lora_B.weight": (64, 4)}
    assert detect(write_empty_file(tmp_path / "b.safetensors", halves)).settings["rank"] == 4
    with pytest.raises(ModelBroken, match="is a LoRA for Stable Diffusion XL"):
        detect(write_empty_file(tmp_path / "c.safetensors", lora(2048, name)), width=40)


def test_a_lora_of_no_cross_attention_may_be_for_sdxl(tmp_path):
    name = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    assert detect(write_empty_file(tmp_path / "a.safetensors", lora(1280, name))).format == "lora"


def written(file: Path, metadata: dict[str, str]) -> Path:
    """The file with this metadata in its header."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length]) | {"__metadata__": metadata}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return file


def test_a_file_tells_its_title_its_licence_and_its_trigger_words(tmp_path):
    file = write_empty_file(tmp_path / "a.safetensors", lora(2048))
    metadata = {
        "modelspec.title": "Pixel art",
        "modelspec.license": "CC0-1.0",
        "modelspec.trigger_phrase": "pixel art, 8 bit",
    }
    found = detect(written(file, metadata))
    assert (found.title, found.licence) == ("Pixel art", "CC0-1.0")
    assert found.settings == {"rank": 8, "trigger_words": ["pixel art", "8 bit"]}


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        (
            {"10_fox": {"fox": 40, " snow ": 3}, "1_more": {"fox": 1, "sky": 9}},
            ["fox", "sky", "snow"],
        ),
        ({"10_fox": 3}, None),
        ([], None),
    ],
)
def test_without_trigger_words_the_most_frequent_tags_are_told(tmp_path, tags, told):
    file = write_empty_file(tmp_path / "a.safetensors", lora(2048))
    found = detect(written(file, {"ss_tag_frequency": json.dumps(tags), "ss_output_name": "fox"}))
    assert found.title == "fox"
    assert found.settings.get("frequent_tags") == told


def test_a_checkpoint_for_inpainting_is_told(tmp_path: Path) -> None:
    for channels, inpainting in ((4, False), (9, True)):
        file = write_empty_file(tmp_path / f"{channels}.safetensors", checkpoint(channels=channels))
        assert detect(file).inpainting is inpainting
