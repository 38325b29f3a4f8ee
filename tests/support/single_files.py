"""Single-file checkpoints and LoRAs, in the layout of the original programs.

The inverse of diffusers' conversion, name by name, so that an imported file can be compared with
the pipeline that it was made of. Works on tensors without data (device "meta") too. Knows nothing
of Banatie.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm": "ln_",
    "self_attn": "attn",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_TYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


def write_checkpoint(
    pipeline: Path,
    file: Path,
    dtype: torch.dtype = torch.float16,
    more: Mapping[str, torch.Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write the pipeline's weights as one checkpoint into `file`, which it returns.

    `more` are further tensors, that other programs put there.
    """
    parts = {name: _load(pipeline / name) for name in PARTS}
    layers = json.loads((pipeline / "unet" / "config.json").read_text())["layers_per_block"]
    tensors = {name: t.to(dtype).contiguous() for name, t in original(parts, layers).items()}
    save_file({**tensors, **(more or {})}, file, metadata=dict(metadata or {}))
    return file


def write_empty_file(file: Path, tensors: Mapping[str, tuple], dtype: str = "F16") -> Path:
    """Write a safetensors file of these names and shapes, with zeros.

    The file is sparse: it takes no disk space, however large it is.
    """
    width = {"F32": 4, "U8": 1, "F8_E4M3": 1}.get(dtype, 2)
    head, end = {}, 0
    for name, shape in tensors.items():
        size = width * torch.Size(shape).numel()
        head[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    return _with_head(file, head, end)


def write_full_size(file: Path, tensors: Mapping[str, torch.Tensor], block: bytes) -> Path:
    """Write a safetensors file of these tensors, whose data repeats the block."""
    head, end = {}, 0
    for name, tensor in tensors.items():
        size = tensor.element_size() * tensor.numel()
        kind = _TYPES[tensor.dtype]
        shape = list(tensor.shape)
        head[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    _with_head(file, head, 0)
    with file.open("ab") as opened:
        while end > 0:
            end -= opened.write(block[:end])
    return file


def write_lora(
    file: Path,
    shapes: Mapping[str, torch.Size],
    rank: int | Sequence[int],
    alpha: float | Callable[[int], float] | None,
    layers_per_block: int | None = None,
) -> Tensors:
    """Write a random LoRA for layers of these names and shapes; each layer's weight change.

    With an alpha it is in kohya's format, without one in diffusers'. With the UNet's layers per
    block, its layers have the names of the original layout, as most published LoRAs do. Several
    ranks are given to the layers in turn, and an alpha may be a function of the rank.
    """
    random = torch.Generator().manual_seed(len(shapes))
    ranks, alpha_of = rank if isinstance(rank, Sequence) else (rank,), alpha
    tensors, added = {}, {}
    for number, (name, shape) in enumerate(shapes.items()):
        rank = ranks[number % len(ranks)]
        alpha = alpha_of(rank) if callable(alpha_of) else alpha_of
        down = 0.3 * torch.randn((rank, *shape[1:]), generator=random)
        up = 0.3 * torch.randn((shape[0], rank, *[1] * (len(shape) - 2)), generator=random)
        added[name] = (up.flatten(1) @ down.flatten(1)).reshape(shape)
        if alpha is None:
            tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
            continue
        added[name] *= alpha / rank
        part, _, layer = name.partition(".")
        if part == "unet" and layers_per_block:
            layer = _unet_name(f"{layer}.weight", {}, layers_per_block).removesuffix(".weight")
        prefix = {"text_encoder": "te1", "text_encoder_2": "te2"}.get(part, part)
        if part != "unet" and layer != "text_projection":
            layer = "text_model." + layer.removeprefix("text_model.")
        flat = f"lora_{prefix}_" + layer.replace(".", "_")
        tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
        tensors[f"{flat}.alpha"] = torch.tensor(alpha)
    save_file(tensors, file)
    return added


def relabel_lora(file: Path, layout: str, layers_per_block: int) -> Path:
    """Give a LoRA in diffusers' format the names of another layout; the file, which it returns.

    A layout is a prefix of the UNet's names, "stability" or "diffusers" for the names of its
    layers, and what the down and the up matrix are called, with spaces between.
    """
    prefix, style, down, up = layout.split()
    tensors = {}
    for key, tensor in load_file(file).items():
        part, _, rest = key.partition(".")
        layer, ending = re.fullmatch(r"(.+?)\.(lora_A\.weight|lora_B\.weight|alpha)", rest).groups()
        if part == "unet":
            if style == "stability":
                layer = _unet_name(f"{layer}.weight", {}, layers_per_block).removesuffix(".weight")
            name = prefix + (layer.replace(".", "_") if prefix.endswith("_") else layer)
        else:
            name = f"{part}.{layer}"
        ending = {"lora_A.weight": f"{down}.weight", "lora_B.weight": f"{up}.weight"}.get(
            ending, ending
        )
        tensors[f"{name}.{ending}"] = tensor
    save_file(tensors, file)
    return file


def original(parts: Mapping[str, Tensors], layers_per_block: int) -> Tensors:
    """A pipeline's weights, part by part, under the names of the original layout."""
    found: Tensors = {}
    for name, tensor in parts["unet"].items():
        found["model.diffusion_model." + _unet_name(name, parts["unet"], layers_per_block)] = tensor
    ups = 1 + max(int(n.split(".")[2]) for n in parts["vae"] if n.startswith("decoder.up_blocks"))
    for name, tensor in parts["vae"].items():
        found["first_stage_model." + _vae_name(name, ups)] = (
            tensor[:, :, None, None] if "attentions" in name and tensor.ndim == 2 else tensor
        )
    for name, tensor in parts["text_encoder"].items():
        plain = name.removeprefix("text_model.")
        found["conditioner.embedders.0.transformer.text_model." + plain] = tensor
    for name, tensor in _open_clip(parts["text_encoder_2"]):
        found["conditioner.embedders.1.model." + name] = tensor
    return found


def _load(folder: Path) -> Tensors:
    [file] = folder.glob("*.safetensors")
    return load_file(file)


def _unet_name(name: str, tensors: Tensors, layers: int) -> str:
    for ours, theirs in _UNET_ENDS.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    if place := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.", name):
        number = {"resnets": 2 * int(place[2]), "attentions": 1}[place[1]]
        return f"middle_block.{number}." + _inner_name(name[place.end() :], place[1])
    pattern = r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\."
    place = re.match(pattern, name)
    way, block, kind, layer = place[1], int(place[2]), place[3], int(place[4])
    rest = _inner_name(name[place.end() :], kind)
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.op." + rest.removeprefix("conv.")
    if kind == "upsamplers":
        attends = any(n.startswith(f"up_blocks.{block}.attentions.") for n in tensors)
        return f"output_blocks.{block * (layers + 1) + layers}.{2 if attends else 1}.{rest}"
    number = block * (layers + 1) + layer
    where = f"input_blocks.{number + 1}" if way == "down" else f"output_blocks.{number}"
    return f"{where}.{0 if kind == 'resnets' else 1}.{rest}"


def _inner_name(name: str, kind: str) -> str:
    if kind != "resnets":
        return name
    first, _, rest = name.partition(".")
    return f"{_RESNET[first]}.{rest}"


def _vae_name(name: str, ups: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(
        r"up_blocks\.(\d)\.(resnets|upsamplers\.0)",
        lambda m: f"up.{ups - 1 - int(m[1])}." + ("block" if m[2] == "resnets" else "upsample"),
        name,
    )
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
        name = name.replace("to_out.0", "proj_out").replace("to_", "")
    return name


def _open_clip(tensors: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in tensors.items():
        if name == "text_projection.weight":
            yield "text_projection", tensor.T
        elif ".q_proj." in name:
            three = [tensors[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            yield _open_clip_name(name).replace("q_proj.", "in_proj_"), torch.cat(three)
        elif ".k_proj." not in name and ".v_proj." not in name:
            yield _open_clip_name(name), tensor


def _open_clip_name(name: str) -> str:
    name = name.removeprefix("text_model.")
    for ours, theirs in _OPEN_CLIP.items():
        name = name.replace(ours, theirs)
    return name


def _with_head(file: Path, head: Mapping[str, object], data_bytes: int) -> Path:
    text = json.dumps(head).encode()
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        opened.truncate(8 + len(text) + data_bytes)
    return file
