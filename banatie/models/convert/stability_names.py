"""The names of a UNet's layers in Stability's own code, by diffusers' names of them.

Checkpoints and many LoRAs have them, with dots or with underscores. Knows names only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)")
_SAMPLER = re.compile(r"(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def blocks_per_level(layers: Iterable[str]) -> int:
    """How many of Stability's blocks a level of the UNet with these layers has: 3 in SDXL's."""
    places = (re.match(r"up_blocks\.\d+\.resnets\.(\d+)\.", layer) for layer in layers)
    return max((int(place[1]) + 1 for place in places if place), default=3)


def stability_names(layer: str, blocks: int) -> Iterator[str]:
    """A layer's names, for a UNet with so many blocks to a level."""
    if layer in _ENDS:
        yield _ENDS[layer]
    elif found := _BLOCK.fullmatch(layer):
        side, block, kind, index, rest = found.groups()
        number = blocks * int(block) + int(index) + (side == "down")
        place = f"{'input' if side == 'down' else 'output'}_blocks.{number}"
        inner = _RESNET_PARTS.get(rest, rest) if kind == "resnets" else rest
        yield f"{place}.{int(kind == 'attentions')}.{inner}"
    elif found := _SAMPLER.fullmatch(layer):
        number = blocks * (int(found[2]) + 1)
        if found[1] == "down":
            yield f"input_blocks.{number}.0.op"
        else:
            # It comes after the attention, where there is one.
            yield f"output_blocks.{number - 1}.2.conv"
            yield f"output_blocks.{number - 1}.1.conv"
    elif found := _MIDDLE.fullmatch(layer):
        kind, index, rest = found.groups()
        inner = _RESNET_PARTS.get(rest, rest) if kind == "resnets" else rest
        yield f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}.{inner}"
