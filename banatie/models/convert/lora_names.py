"""The names of a LoRA's tensors: which layer of which model each of them belongs to.

Programs write the same layer in many ways: kohya's flat names and dotted ones, diffusers' names of
a layer and those of Stability's own code. Here each becomes one: diffusers' own. Knows names only,
neither shapes nor weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from banatie.models.convert.stability_names import blocks_per_level, stability_names

Part = Literal["unet", "text_encoder", "text_encoder_2"]
PARTS: tuple[Part, ...] = ("unet", "text_encoder", "text_encoder_2")
"""The models of a pipeline that a LoRA may change."""
Role = Literal["down", "up", "alpha"]

PREFIXES: Mapping[Part, tuple[str, ...]] = {
    "unet": ("lora_unet_", "lora_unet.", "unet.", "diffusion_model."),
    "text_encoder": ("lora_te1_", "lora_te1.", "text_encoder.", "clip_l."),
    "text_encoder_2": ("lora_te2_", "lora_te2.", "text_encoder_2.", "clip_g."),
}
"""They say which model of the pipeline a tensor belongs to."""
_KEY = re.compile(
    r"(?P<layer>.+?)(?:(?:"
    r"(?P<down>\.lora_down|\.lora_A(\.\w+)?|\.lora\.down|\.lora_linear_layer\.down|_lora\.down)|"
    r"(?P<up>\.lora_up|\.lora_B(\.\w+)?|\.lora\.up|\.lora_linear_layer\.up|_lora\.up)"
    r")\.weight|(?P<alpha>\.alpha))"
)
# Of the text encoders' layers in diffusers' first LoRA format.
_OLD_PROJECTIONS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


class LoraKey(NamedTuple):
    """What the name of a LoRA's tensor says."""

    part: Part
    layer: str
    """As the file names it, with underscores for dots; see `layer_names`."""
    role: Role


def parse_key(key: str) -> LoraKey | None:
    """What a tensor's name says; None when it is not one of a LoRA."""
    for part, prefixes in PREFIXES.items():
        for prefix in prefixes:
            found = _KEY.fullmatch(key.removeprefix(prefix)) if key.startswith(prefix) else None
            if found is not None:
                role: Role = "alpha" if found["alpha"] else "down" if found["down"] else "up"
                layer = found["layer"].replace(".processor.", ".").replace(".", "_")
                return LoraKey(part, layer, role)
    return None


def canonical_layer(part: Part, module: str) -> str:
    """The name of a layer in diffusers' LoRA format, whichever transformers named the module."""
    if part == "unet" or module.startswith(("text_model.", "text_projection")):
        return module
    return f"text_model.{module}"


def layer_names(part: Part, layers: Iterable[str]) -> dict[str, str]:
    """The layers of a model by every name that a LoRA may use for them, with underscores."""
    layers = list(layers)
    blocks = blocks_per_level(layers)
    names: dict[str, str] = {}
    for layer in layers:
        for name in _spellings(part, layer, blocks):
            names.setdefault(name.replace(".", "_"), layer)
    return names


def _spellings(part: Part, layer: str, blocks: int) -> Iterator[str]:
    yield layer
    if part == "unet":
        if layer.endswith(".to_out.0"):
            yield layer.removesuffix(".0")
        yield from stability_names(layer, blocks)
        return
    short = layer.removeprefix("text_model.")
    yield short
    for ours, theirs in _OLD_PROJECTIONS.items():
        if layer.endswith(f".self_attn.{ours}"):
            yield layer.removesuffix(ours) + theirs
            yield short.removesuffix(ours) + theirs
