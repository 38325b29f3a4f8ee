"""Resuming: makes checkpoints from the shipped weights where there are none.

Only weights are restored: optimizers regain their momentum within a minute. The progress of each
stage is in the model's `training.json`, beside the weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from training import optimizing
from training.codes import LENGTH

PROGRESS_FILE = "training.json"
STAGES = {
    "encoders": "encoders",
    "judge": "judge",
    "painter": "unet",
    "decoder": "decoder",
    "encoder": "encoder",
}


def progress(folder: Path) -> dict[str, dict[str, float]]:
    """Return the steps and seconds done of each stage with a checkpoint in `folder`."""
    found = {}
    for stage, name in STAGES.items():
        path = folder / f"{name}.pt"
        if path.exists():
            saved = torch.load(path, weights_only=True, mmap=True)
            kept = ("steps", "seen", "spent")
            found[stage] = {key: round(saved[key]) for key in kept if key in saved}
    return found


def restore_shipped(shipped: Path, judge: Path, folder: Path) -> bool:
    """Write checkpoints from the shipped weights and judge into a `folder` that has none.

    Returns False when there are checkpoints already or no shipped weights.
    """
    progress_file = shipped / PROGRESS_FILE
    if (folder / "encoders.pt").exists() or not progress_file.exists():
        return False
    stages = json.loads(progress_file.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer").mkdir(exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shipped / "tokenizer" / name, folder / "tokenizer" / name)

    judge_weights = {name: value.float() for name, value in load_file(judge).items()}
    optimizing.save(folder / "judge.pt", {"weights": judge_weights, **stages["judge"]})
    unet = load_file(shipped / "unet" / "diffusion_pytorch_model.safetensors")
    optimizing.save(folder / "unet.pt", {"weights": unet, "average": unet, **stages["painter"]})
    autoencoder = load_file(shipped / "vae" / "diffusion_pytorch_model.safetensors")
    for half, modules in (
        ("decoder", ("post_quant_conv", "decoder")),
        ("encoder", ("quant_conv", "encoder")),
    ):
        weights = {
            f"{place}.{name.removeprefix(module + '.')}": value.float()
            for place, module in enumerate(modules)
            for name, value in autoencoder.items()
            if name.startswith(module + ".")
        }
        optimizing.save(folder / f"{half}.pt", {"weights": weights, **stages[half]})
    encoder_weights = {
        f"{place}.{name}": value.float()
        for place, encoder in enumerate(("text_encoder", "text_encoder_2"))
        for name, value in load_file(shipped / encoder / "model.safetensors").items()
    }
    # The head by which the first encoder is trained is not part of the pipeline.
    width = encoder_weights["0.embeddings.token_embedding.weight"].shape[1]
    head = {f"2.{name}": value for name, value in nn.Linear(width, LENGTH).state_dict().items()}
    weights = {**encoder_weights, **head}
    optimizing.save(folder / "encoders.pt", {"weights": weights, **stages["encoders"]})
    return True
