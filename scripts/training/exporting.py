"""Export: writes the trained networks as a pipeline folder, atomically.

The folder loads with `StableDiffusionXLPipeline.from_pretrained` and holds the icons' licence.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from training.autoencoder import load_autoencoder
from training.captions import known_words
from training.resuming import PROGRESS_FILE, progress
from training.unet import TextEncoders, build_scheduler

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

A StableDiffusionXLPipeline of 192×192 pixels, trained from scratch on two CPU cores by
`scripts/train_embedded`: flat illustrated scenes of known objects, colours, places and styles.
`docs/embedded-model.md` says how it was made, what was measured and what it cannot do.
The training pictures are composed of Microsoft's Fluent Emoji (MIT): see `LICENSE-icons.txt`.
"""


def write_known_words(folder: Path) -> None:
    """Write into a model's folder what the model can paint."""
    text = json.dumps(known_words(), indent=1, ensure_ascii=False)
    (folder / "known_words.json").write_text(text + "\n")


def build_pipeline(
    unet: UNet2DConditionModel, text_encoders: TextEncoders, folder: Path
) -> StableDiffusionXLPipeline:
    """Return the pipeline of a UNet with the autoencoder and encoders trained in `folder`."""
    return StableDiffusionXLPipeline(
        vae=load_autoencoder(folder),
        text_encoder=text_encoders.first,
        text_encoder_2=text_encoders.second,
        tokenizer=text_encoders.tokenizer,
        tokenizer_2=text_encoders.tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def export(
    unet: UNet2DConditionModel, text_encoders: TextEncoders, work: Path, target: Path
) -> None:
    """Write the pipeline in half precision into `target`, replacing its contents."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline = build_pipeline(unet, text_encoders, work)
    networks = (pipeline.vae, pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2)
    for network in networks:
        network.half()
    pipeline.save_pretrained(partial, safe_serialization=True)
    for network in networks:
        network.float()
    for tokenizer in ("tokenizer", "tokenizer_2"):
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(work / "tokenizer" / name, partial / tokenizer / name)
    (partial / "LICENSE-icons.txt").write_text(LICENCE)
    (partial / "README.md").write_text(CARD)
    write_known_words(partial)
    (partial / PROGRESS_FILE).write_text(json.dumps(progress(work), indent=2) + "\n")
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
