"""Private names of torch and diffusers that painting depends on, each with the reason.

A test fails when the installed version has one no more. Nothing else in this package uses private
names of a library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading
from torch._dynamo.exc import TorchDynamoException

COMPILED_CALL = "_compiled_call_impl"
"""Where a module keeps what `torch.nn.Module.compile` made of it; torch has no way to undo that."""

CompilationError = TorchDynamoException
"""What a compiled module raises when it cannot be compiled; torch exports no public name."""


def reapply_group_offloading(model: ModelMixin) -> None:
    """Set a model's group offloading up again after its layers got other hooks.

    diffusers does so itself when it loads a LoRA, but not in `enable_layerwise_casting`.
    """
    _maybe_remove_and_reapply_group_offloading(model)


def ip_adapter_layers(
    unet: UNet2DConditionModel, tensors: Mapping[str, torch.Tensor]
) -> tuple[torch.nn.Module, dict[str, torch.nn.Module]]:
    """An IP-Adapter's projection, and its attention processors by their places in the UNet.

    diffusers' public `load_ip_adapter` would leave them in the UNet for every picture. Raises
    KeyError, RuntimeError or ValueError when the tensors do not fit the UNet.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    projection = unet._convert_ip_adapter_image_proj_to_diffusers(
        parts["image_proj"], low_cpu_mem_usage=False
    )
    all_processors = unet._convert_ip_adapter_attn_to_diffusers([parts], low_cpu_mem_usage=False)
    processors = {
        place: each for place, each in all_processors.items() if isinstance(each, torch.nn.Module)
    }
    if len(parts["ip_adapter"]) != 2 * len(processors):
        raise ValueError(
            f"it has {len(parts['ip_adapter'])} matrices for {len(processors)} layers of the UNet"
        )
    return projection, processors


def drop_compiled_calls(model: torch.nn.Module) -> None:
    """Make every module of the model run uncompiled from now on."""
    for module in model.modules():
        setattr(module, COMPILED_CALL, None)


@contextmanager
def uncompiled(model: torch.nn.Module) -> Iterator[None]:
    """Run the model's compiled modules uncompiled, and compiled as before afterwards."""
    compiled = {
        module: call
        for module in model.modules()
        if (call := getattr(module, COMPILED_CALL)) is not None
    }
    for module in compiled:
        setattr(module, COMPILED_CALL, None)
    try:
        yield
    finally:
        for module, call in compiled.items():
            setattr(module, COMPILED_CALL, call)
