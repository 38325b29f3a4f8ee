"""Goes on from the weights that are shipped where no checkpoint of the training is left.

Only weights come back: optimizers find their momentum again within a minute. How far each stage
had come stands in the model's `training.json`, beside the weights that it speaks of.
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

NOTES = "training.json"
STAGES = {
    "encoders": "encoders",
    "judge": "judge",
    "painter": "unet",
    "decoder": "decoder",
    "encoder": "encoder",
}


def progress(folder: Path) -> dict[str, dict[str, float]]:
    """Return for each stage with a checkpoint in `folder` the steps and seconds behind it."""
    found = {}
    for stage, name in STAGES.items():
        path = folder / f"{name}.pt"
        if path.exists():
            saved = torch.load(path, weights_only=True, mmap=True)
            kept = ("steps", "seen", "spent")
            found[stage] = {key: round(saved[key]) for key in kept if key in saved}
    return found


def adopt(shipped: Path, judge: Path, folder: Path) -> bool:
    """Write checkpoints made of the shipped weights and judge into a `folder` that has none.

    Returns whether it did: not where there are checkpoints already or nothing is shipped.
    """
    notes = shipped / NOTES
    if (folder / "encoders.pt").exists() or not notes.exists():
        return False
    told = json.loads(notes.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer").mkdir(exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shipped / "tokenizer" / name, folder / "tokenizer" / name)

    seen = {name: value.float() for name, value in load_file(judge).items()}
    optimizing.save(folder / "judge.pt", {"weights": seen, **told["judge"]})
    unet = load_file(shipped / "unet" / "diffusion_pytorch_model.safetensors")
    optimizing.save(folder / "unet.pt", {"weights": unet, "average": unet, **told["painter"]})
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
        optimizing.save(folder / f"{half}.pt", {"weights": weights, **told[half]})
    both = {
        f"{place}.{name}": value.float()
        for place, encoder in enumerate(("text_encoder", "text_encoder_2"))
        for name, value in load_file(shipped / encoder / "model.safetensors").items()
    }
    # The head that the first encoder learns by is not part of the pipeline.
    width = both["0.embeddings.token_embedding.weight"].shape[1]
    head = {f"2.{name}": value for name, value in nn.Linear(width, LENGTH).state_dict().items()}
    optimizing.save(folder / "encoders.pt", {"weights": {**both, **head}, **told["encoders"]})
    return True
