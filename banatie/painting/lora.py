"""LoRAs (arXiv:2106.09685): applied to a pipeline for one job, and removed after it.

The pipeline's own weights are never changed: peft wraps each layer that a LoRA adapts, and the
wrappers are removed again. A LoRA is applied as its file says or not at all: every wrapped layer is
compared with the file. Knows no folder and no catalog; it is given the files.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError

from banatie.errors import ModelBroken, PaintingError
from banatie.models.convert.canonical_lora import CanonicalLora, read_canonical
from banatie.models.convert.lora_names import PARTS, Part, canonical_layer
from banatie.models.convert.structure import Layers, lora_layers
from banatie.painting.library_internals import uncompiled

LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    SafetensorError,
)
"""What the libraries raise for files that are damaged or do not fit the model."""


@dataclass(frozen=True)
class Lora:
    """A LoRA's file and the weight with which it is applied: 0 not at all, 1 as it was trained."""

    name: str
    file: Path
    weight: float


@contextmanager
def applied(
    pipeline: StableDiffusionXLPipeline,
    loras: Sequence[Lora],
    on_encoders_changed: Callable[[], None],
) -> Iterator[None]:
    """Apply all these LoRAs to the pipeline, and restore it exactly afterwards.

    `on_encoders_changed` is called when the text encoders changed, so that cached embeddings can be
    dropped. Raises ModelBroken, naming the LoRA, when one is damaged or does not fit, and
    PaintingError when the UNet's weights are stored in float8.
    """
    if not loras:
        yield
        return
    # peft casts a LoRA to the dtype of the layer, and most of its values underflow in float8.
    if any(weight.dtype == torch.float8_e4m3fn for weight in pipeline.unet.parameters()):
        raise PaintingError(
            "LoRAs need more memory than is free: the painting model is stored in float8 here; "
            "leave them out"
        )
    # Compiling the blocks again for one picture would take longer than painting it.
    with uncompiled(pipeline.unet):
        try:
            # Before the first of them wraps any layer.
            layers = lora_layers({part: getattr(pipeline, part) for part in PARTS})
            names = [_adapter_name(number) for number in range(len(loras))]
            loaded = [
                _load(pipeline, lora, name, layers) for lora, name in zip(loras, names, strict=True)
            ]
            pipeline.set_adapters(names, [lora.weight for lora in loras])
            for lora, name, canonical in zip(loras, names, loaded, strict=True):
                _check_applied(pipeline, lora, name, canonical)
            on_encoders_changed()
            yield
        finally:
            pipeline.unload_lora_weights()
            on_encoders_changed()


def _adapter_name(number: int) -> str:
    # Not the LoRA's own name, which may contain dots, which peft does not allow.
    return f"banatie_{number}"


def _load(
    pipeline: StableDiffusionXLPipeline, lora: Lora, adapter: str, layers: Layers
) -> CanonicalLora:
    """Wrap the layers that the LoRA changes; what the file says of them."""
    verbosity = diffusers_logging.get_verbosity()
    try:
        # LoRAs that an earlier version installed are not in the canonical form.
        canonical = read_canonical(lora.file, layers)
        # It would warn about every text encoder that a LoRA does not change.
        diffusers_logging.set_verbosity(logging.CRITICAL)
        with warnings.catch_warnings():
            # peft warns about a second adapter, and when a broken one is removed again.
            warnings.simplefilter("ignore", UserWarning)
            for part in PARTS:
                _load_part(pipeline, part, canonical, adapter)
    except torch.OutOfMemoryError:
        raise
    except (*LOADING_ERRORS, ModelBroken) as error:
        reason = " ".join(str(error).replace(str(lora.file), lora.file.name).split())[:200]
        raise ModelBroken(
            f"the LoRA {lora.name!r} is damaged or does not fit the painting model ({reason})"
        ) from error
    finally:
        diffusers_logging.set_verbosity(verbosity)
    return canonical


def _load_part(
    pipeline: StableDiffusionXLPipeline, part: Part, canonical: CanonicalLora, adapter: str
) -> None:
    model = getattr(pipeline, part)
    ranks = {
        _module_name(model, layer.layer): layer.rank
        for layer in canonical.layers
        if layer.part == part
    }
    if not ranks:
        return
    # A layer's alpha is its rank, whatever a library would guess: the strength is in the weights.
    patterns = {f"^{name}": rank for name, rank in ranks.items()}
    most = max(ranks.values())
    config = {
        "r": most,
        "lora_alpha": most,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "target_modules": list(ranks),
    }
    options = {
        "network_alphas": None,
        "adapter_name": adapter,
        "metadata": {f"{part}.{name}": value for name, value in config.items()},
        "_pipeline": pipeline,
        "low_cpu_mem_usage": True,
    }
    tensors = canonical.tensors()
    if part == "unet":
        pipeline.load_lora_into_unet(tensors, unet=model, **options)
        return
    # diffusers recognises the format of a text encoder's LoRA by the names of its attention
    # layers, which not every LoRA has, unless all its names are of diffusers' older format.
    older = {
        name.replace(".lora_A.", ".lora_linear_layer.down.").replace(
            ".lora_B.", ".lora_linear_layer.up."
        ): tensor
        for name, tensor in tensors.items()
    }
    pipeline.load_lora_into_text_encoder(older, text_encoder=model, prefix=part, **options)


def _module_name(model: torch.nn.Module, layer: str) -> str:
    """A layer's name in the model, of which some versions of transformers leave a part out."""
    return layer if hasattr(model, "text_model") else layer.removeprefix("text_model.")


def _check_applied(
    pipeline: StableDiffusionXLPipeline, lora: Lora, adapter: str, canonical: CanonicalLora
) -> None:
    """Compare every wrapped layer's scaling and shapes with the file. Raises ModelBroken.

    The libraries only warn about layers that they leave out or scale by another number.
    """
    expected = {
        (layer.part, layer.layer): (tuple(layer.down.shape), tuple(layer.up.shape), True)
        for layer in canonical.layers
    }
    found = {}
    for part in PARTS:
        for name, module in getattr(pipeline, part).named_modules():
            if isinstance(module, LoraLayer) and adapter in module.scaling:
                down, up = module.lora_A[adapter].weight, module.lora_B[adapter].weight
                loaded = (
                    math.isclose(module.scaling[adapter], lora.weight, rel_tol=1e-6)
                    and adapter in module.active_adapters
                    and not (down.is_meta or up.is_meta)
                )
                place = (part, canonical_layer(part, name))
                found[place] = (tuple(down.shape), tuple(up.shape), loaded)
    if wrong := sorted(
        place for place in expected.keys() | found.keys() if expected.get(place) != found.get(place)
    ):
        part, name = wrong[0]
        raise ModelBroken(
            f"the LoRA {lora.name!r} does not fit the painting model: {len(wrong)} layers, such as "
            f"{part}.{name}, would be changed in another way than its file says"
        )
