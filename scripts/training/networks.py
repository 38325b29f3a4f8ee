"""All networks of the painter with their tokenizer: made, loaded, exported, and cut into pieces.

An exported folder loads with `StableDiffusionXLPipeline.from_pretrained` and holds the icons'
licence. Pieces are for machines that only give back a few small files: `assemble` makes the folder
of them.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from training.autoencoder import build_autoencoder
from training.captions import known_words
from training.judging import Judge
from training.text_encoders import TextEncoders, build_tokenizer, load_tokenizer
from training.unet import build_scheduler, build_unet

PROGRESS_FILE = "training.json"
PIECE_BYTES = 31 * 2**19
STATE_FILE = "state.json"
VOCABULARY_FILES = ("vocab.json", "merges.txt")
_SHIPPED = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "first": "text_encoder/model.safetensors",
    "second": "text_encoder_2/model.safetensors",
}

LICENCE = """The pictures that this model was trained on are composed of icons from Fluent Emoji
(flat), published as the npm package @iconify-json/fluent-emoji-flat under this licence:

MIT License

Copyright (c) Microsoft Corporation.

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""

CARD = """# banatie-small

A StableDiffusionXLPipeline of 256×256 pixels, trained from scratch by `scripts/train_embedded`:
flat illustrated scenes of known objects, colours, places and styles.
`docs/embedded-model.md` says how it was made, what was measured and what it cannot do.
The training pictures are composed of Microsoft's Fluent Emoji (MIT): see `LICENSE-icons.txt`.
"""


@dataclass
class Networks:
    """The networks, and how many samples each training stage has seen."""

    encoders: TextEncoders
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    judge: Judge
    progress: dict[str, float]

    def parts(self) -> dict[str, nn.Module]:
        """Return every network that has weights, by name."""
        return {
            "unet": self.unet,
            "vae": self.vae,
            "first": self.encoders.first,
            "second": self.encoders.second,
            "judge": self.judge,
        }

    def to(self, device: torch.device) -> None:
        """Move all networks to a device."""
        for module in (self.encoders, self.unet, self.vae, self.judge):
            module.to(device)

    def pipeline(self) -> StableDiffusionXLPipeline:
        """Return the pipeline of these networks."""
        return StableDiffusionXLPipeline(
            vae=self.vae.eval(),
            text_encoder=self.encoders.first.eval(),
            text_encoder_2=self.encoders.second.eval(),
            tokenizer=self.encoders.tokenizer,
            tokenizer_2=self.encoders.tokenizer,
            unet=self.unet.eval(),
            scheduler=build_scheduler(),
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )


def new_networks(vocabulary: Path, build_vocabulary: bool = True) -> Networks:
    """Return untrained networks; their vocabulary is written into or read from a folder."""
    tokenizer = build_tokenizer(vocabulary) if build_vocabulary else load_tokenizer(vocabulary)
    return Networks(TextEncoders(tokenizer), build_unet(), build_autoencoder(), Judge(), {})


def load_networks(model: Path, judge: Path | None = None) -> Networks:
    """Return the networks of an exported folder; the judge is untrained if not given."""
    networks = new_networks(model / "tokenizer", build_vocabulary=False)
    for name, file in _SHIPPED.items():
        networks.parts()[name].load_state_dict(_floats(load_file(model / file)))
    if judge is not None:
        networks.judge.load_state_dict(_floats(load_file(judge)))
    networks.progress = json.loads((model / PROGRESS_FILE).read_text())
    return networks


def _floats(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.float() if value.is_floating_point() else value
            for name, value in weights.items()}  # fmt: skip


def half_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a network's weights on the CPU in half precision."""
    return {
        name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in module.state_dict().items()
        if not name.endswith("position_ids")
    }


def write_known_words(folder: Path) -> None:
    """Write into a model's folder what the model can paint."""
    text = json.dumps(known_words(), indent=1, ensure_ascii=False)
    (folder / "known_words.json").write_text(text + "\n")


def save_judge(judge: Judge, path: Path) -> None:
    """Write the judge's weights in half precision, small enough to be shipped."""
    save_file(half_weights(judge), path)


def export(networks: Networks, vocabulary: Path, target: Path) -> None:
    """Write the pipeline in half precision into `target`, replacing its contents."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline = networks.pipeline()
    parts = (pipeline.vae, pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2)
    for part in parts:
        part.half()
    pipeline.save_pretrained(partial, safe_serialization=True)
    for part in parts:
        part.float()
    for tokenizer in ("tokenizer", "tokenizer_2"):
        for name in VOCABULARY_FILES:
            shutil.copy(vocabulary / name, partial / tokenizer / name)
    (partial / "LICENSE-icons.txt").write_text(LICENCE)
    (partial / "README.md").write_text(CARD)
    write_known_words(partial)
    (partial / PROGRESS_FILE).write_text(json.dumps(networks.progress, indent=2) + "\n")
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def write_pieces(
    weights: dict[str, dict[str, torch.Tensor]],
    progress: dict[str, float],
    vocabulary: Path,
    folder: Path,
) -> None:
    """Write networks' weights into a few files of less than 16 MiB, replacing older ones.

    Everything is written elsewhere first, so that a killed process leaves whole files.
    """
    pieces: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for part, tensors in weights.items():
        for name, value in tensors.items():
            size += value.nbytes
            if size > PIECE_BYTES and pieces[-1]:
                pieces.append({})
                size = value.nbytes
            pieces[-1][f"{part}/{name}"] = value
    stamp = str(sum(progress.values()))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as elsewhere:
        state = {
            "pieces": len(pieces),
            "stamp": stamp,
            "progress": progress,
            "vocabulary": {name: (vocabulary / name).read_text() for name in VOCABULARY_FILES},
        }
        written = [Path(elsewhere) / STATE_FILE]
        written[0].write_text(json.dumps(state))
        for place, piece in enumerate(pieces):
            written.append(Path(elsewhere) / f"piece-{place}.safetensors")
            save_file(piece, written[-1], metadata={"stamp": stamp})
        for file in written:
            try:
                os.replace(file, folder / file.name)
            except OSError:  # another file system
                shutil.copyfile(file, folder / file.name)


def read_pieces(folder: Path, vocabulary: Path) -> Networks:
    """Return the networks of pieces, writing their vocabulary into a folder.

    Raises ValueError where the pieces are of different exports.
    """
    state = json.loads((folder / STATE_FILE).read_text())
    vocabulary.mkdir(parents=True, exist_ok=True)
    for name, text in state["vocabulary"].items():
        (vocabulary / name).write_text(text)
    networks = new_networks(vocabulary, build_vocabulary=False)
    weights: dict[str, dict[str, torch.Tensor]] = {}
    for place in range(state["pieces"]):
        with safe_open(folder / f"piece-{place}.safetensors", "pt") as piece:
            if piece.metadata()["stamp"] != state["stamp"]:
                raise ValueError(f"piece {place} is of another export than {STATE_FILE}")
            for name in piece.keys():  # noqa: SIM118
                part, _, inner = name.partition("/")
                weights.setdefault(part, {})[inner] = piece.get_tensor(name)
    for part, tensors in weights.items():
        networks.parts()[part].load_state_dict(_floats(tensors), strict=False)
    networks.progress = state["progress"]
    return networks
