"""The generation parameters as text, in the form that image browsers read."""

from __future__ import annotations

import json
from collections.abc import Mapping


def parameters_text(
    *,
    prompt: str,
    original_prompt: str,
    negative_prompt: str,
    steps: int,
    sampler: str,
    guidance_scale: float,
    seed: int,
    width: int,
    height: int,
    model: str,
    hashes: Mapping[str, str],
    version: str,
    loras: Mapping[str, float] | None = None,
    lora_hashes: Mapping[str, str] | None = None,
    further: Mapping[str, object] | None = None,
) -> str:
    """The generation parameters as image browsers read them from the text chunk `parameters`.

    The format is that of Stable Diffusion WebUI's `create_infotext`: the prompt, the negative
    prompt if there is one, and a last line of settings, of which readers use those that they know.
    `loras`, weights by name, are appended to the prompt as WebUI's users type them. `hashes` are
    settings of the model, such as "Model hash"; `lora_hashes` are by name; `further` are more of
    them.
    """
    settings = {
        "Steps": steps,
        "Sampler": sampler,
        "CFG scale": f"{guidance_scale:.12g}",
        "Seed": seed,
        "Size": f"{width}x{height}",
        **hashes,
        "Model": model,
        "Lora hashes": ", ".join(
            f"{name}: {digits}" for name, digits in (lora_hashes or {}).items()
        ),
        **(further or {}),
        "Original prompt": "" if original_prompt == prompt else original_prompt,
        "Version": version,
    }
    negative = f"\nNegative prompt: {negative_prompt}" if negative_prompt else ""
    line = ", ".join(
        f"{name}: {_quoted(str(value))}" for name, value in settings.items() if value != ""
    )
    tags = "".join(f" <lora:{name}:{weight:.12g}>" for name, weight in (loras or {}).items())
    return f"{prompt}{tags}{negative}\n{line}"


def _quoted(text: str) -> str:
    # As WebUI does, because readers split the line at commas and a setting at its colon.
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:\n"') else text
