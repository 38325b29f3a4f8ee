"""The names of a Stable Diffusion XL checkpoint's tensors, and diffusers' names of them.

The file's names are those of Stability's own code and of OpenCLIP, with the exceptions that other
programs write. Knows names and where one tensor becomes three; which of them must be there, and in
which shapes, is for `checkpoint`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from banatie.models.convert.stability_names import blocks_per_level, stability_names
from banatie.models.detect_rules import TEXT_ENCODER, TEXT_ENCODER_2, UNET, VAES

SURPLUS = re.compile(
    r".*\.(position_ids|logit_scale)"
    # Of the first text encoder only the hidden states are used.
    rf"|{re.escape(TEXT_ENCODER)}(transformer\.)?text_projection(\.weight)?"
)
"""What programs put into a checkpoint that no picture needs."""
_VAE_PARTS = re.compile(r"(encoder|decoder|quant_conv|post_quant_conv)\.")

_VAE_NAMES = (
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
    ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
    ("mid_block.attentions.0.to_", "mid.attn_1."),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    (".resnets.", ".block."),
    (".downsamplers.0.", ".downsample."),
    (".upsamplers.0.", ".upsample."),
    ("encoder.down_blocks.", "encoder.down."),
)
_OPEN_CLIP = (
    ("embeddings.token_embedding.weight", "token_embedding.weight"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm", "ln_final"),
    ("encoder.layers.", "transformer.resblocks."),
    ("layer_norm", "ln_"),
    ("self_attn", "attn"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)


def part_of(name: str) -> str | None:
    """The model of the pipeline that a checkpoint's tensor belongs to; None for none of them."""
    if name.startswith(UNET):
        return "unet"
    if name.startswith(TEXT_ENCODER):
        return "text_encoder"
    if name.startswith(TEXT_ENCODER_2):
        return "text_encoder_2"
    for prefix in VAES:
        if name.startswith(prefix) and _VAE_PARTS.match(name.removeprefix(prefix)):
            return "vae"
    return None


class Source(NamedTuple):
    """Where in a checkpoint a tensor may be."""

    name: str
    third: int | None = None
    """Of OpenCLIP's one matrix for queries, keys and values; None: the whole tensor."""
    transposed: bool = False


def sources(part: str, names: Collection[str]) -> Iterator[tuple[str, tuple[Source, ...]]]:
    """Each of a model's tensors, by diffusers' names, with the places where it may be."""
    if part == "unet":
        blocks = blocks_per_level(names)
        for name in names:
            layer, _, kind = name.rpartition(".")
            yield name, tuple(Source(f"{UNET}{n}.{kind}") for n in stability_names(layer, blocks))
    elif part == "vae":
        levels = [re.match(r"decoder\.up_blocks\.(\d+)\.", name) for name in names]
        last = max((int(level[1]) for level in levels if level), default=0)
        for name in names:
            both = (_vae_name(name, last), name)
            yield name, tuple(Source(prefix + n) for prefix in VAES for n in both)
    else:
        for name in names:
            yield name, tuple(_text_sources(part, name))


def _vae_name(name: str, last_level: int) -> str:
    # Stability counts the decoder's levels from the picture.
    name = re.sub(
        r"decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up.{last_level - int(m[1])}", name
    )
    for ours, theirs in _VAE_NAMES:
        name = name.replace(ours, theirs)
    return name


def _text_sources(part: str, name: str) -> Iterator[Source]:
    short = name.removeprefix("text_model.")
    prefix = TEXT_ENCODER if part == "text_encoder" else TEXT_ENCODER_2
    yield Source(f"{prefix}transformer.text_model.{short}")
    yield Source(f"{prefix}transformer.{short}")
    if part == "text_encoder":
        return
    if short == "text_projection.weight":
        # OpenCLIP multiplies from the other side than a linear layer, which has a `weight`.
        yield Source(f"{prefix}model.text_projection", transposed=True)
        yield Source(f"{prefix}model.text_projection.weight")
        return
    third = None
    if found := re.search(r"\.([qkv])_proj\.", short):
        third = "qkv".index(found[1])
        short = short.replace(f"{found[1]}_proj.", "in_proj_")
    for ours, theirs in _OPEN_CLIP:
        short = short.replace(ours, theirs)
    yield Source(f"{prefix}model.{short}", third)
