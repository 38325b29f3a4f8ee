"""Tiny real models: pipelines and language models with random weights, made on the spot.

Every class is the one that production loads. Only the widths are small, so that a whole picture
takes milliseconds. Their output is meaningless. Knows nothing of Banatie.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = [
    *("a", "an", "and", "at", "by", "cat", "color", "detailed", "dog", "high", "in", "light"),
    *("lighting", "of", "on", "photo", "quality", "red", "road", "soft", "style", "the", "with"),
]
"""The words that are one token each; everything else is encoded in bytes."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_sdxl(
    folder: Path, seed: int = 0, second_width: int = 16, in_channels: int = 4
) -> Path:
    """Write a Stable Diffusion XL pipeline in the diffusers layout into `folder`, which it returns.

    Its 1:1 picture is 128 × 128; it takes 0.7 MB on disk. `seed` decides every weight, and
    `second_width` is how wide the second text encoder is. With 9 input channels its UNet is one for
    inpainting.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, tokenizer_2 = _clip_tokenizer("<|endoftext|>"), _clip_tokenizer("!")
        pipeline = StableDiffusionXLPipeline(
            vae=_autoencoder(),
            text_encoder=CLIPTextModel(_text_config(tokenizer, "quick_gelu")),
            text_encoder_2=CLIPTextModelWithProjection(
                _text_config(tokenizer_2, "gelu", second_width)
            ),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=_unet(second_width, in_channels),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                timestep_spacing="leading",
                steps_offset=1,
            ),
            add_watermarker=False,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def make_tiny_language_model(folder: Path, seed: int = 0) -> Path:
    """Write a chat model in the Hugging Face layout into `folder`, which it returns."""
    tokenizer = _chat_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes: object) -> None:
    """Replace top-level entries of a JSON file, as a model with other settings would have them."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=128,
        scaling_factor=0.13025,
        force_upcast=True,
    )


def _unet(second_width: int, in_channels: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=in_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=(1, 2),
        transformer_layers_per_block=(1, 1),
        cross_attention_dim=16 + second_width,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + second_width,
    )


def _text_config(tokenizer: CLIPTokenizer, activation: str, width: int = 16) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=77,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # With the default, different prompts have almost the same embedding.
        initializer_factor=3.0,
    )


def _clip_tokenizer(pad_token: str) -> CLIPTokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    endings = [letter + "</w>" for letter in letters]
    merges = _merges([[*word[:-1], word[-1] + "</w>"] for word in WORDS])
    tokens = [*letters, *endings, *(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        pad_token=pad_token,
        model_max_length=77,
    )


def _chat_tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges([["Ġ", *word] for word in WORDS])
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *letters, *(a + b for a, b in merges)]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
    )


def _merges(spellings: list[list[str]]) -> list[tuple[str, str]]:
    """BPE merges, in order, that make each spelling one token."""
    merges: list[tuple[str, str]] = []
    for spelling in spellings:
        parts = list(spelling)
        while len(parts) > 1:
            pairs = list(pairwise(parts))
            pair = next((merge for merge in merges if merge in pairs), None)
            if pair is None:
                pair = pairs[0]
                merges.append(pair)
            index = pairs.index(pair)
            parts[index : index + 2] = ["".join(pair)]
    return merges
