"""The two CLIP text encoders and their tokenizer, trained to encode a caption's meaning.

They learn from captions without pictures: the second encoder's pooled vector is trained to be the
scene's code (`codes`), and a head on the first encoder's last state too.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional
from training import optimizing
from training.captions import all_words, write_caption
from training.codes import LENGTH, NAMES, Codes
from training.scene_catalog import COLOURS, OBJECTS, POSITIONS, SETTINGS, SIZES, STYLES, Scene
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

TOKENS = 77
BATCH = 64
START, END = "<|startoftext|>", "<|endoftext|>"


def _byte_letters() -> list[str]:
    """Return the 256 printable characters that stand for bytes in CLIP's vocabulary, in order."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + place) for place in range(len(rest))]


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write a small vocabulary in CLIP's file format and return its tokenizer.

    Every word of the captions is one token; other text is split into pieces and bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer = trainers.BpeTrainer(
        vocab_size=6000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
    )
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.train_from_iterator(sorted(all_words()), trainer)
    merges = [
        tuple(pair) if not isinstance(pair, str) else tuple(pair.split(" "))
        for pair in json.loads(bpe.to_str())["model"]["merges"]
    ]
    letters = _byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += dict.fromkeys("".join(pair) for pair in merges)
    tokens = [*dict.fromkeys(tokens), START, END]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return load_tokenizer(folder)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Return the tokenizer of a folder written by `build_tokenizer`."""
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=TOKENS,
    )


def build_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Return the two untrained text encoders."""

    def settings(width: int, layers: int, heads: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width * 3,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=TOKENS,
            projection_dim=LENGTH,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    return CLIPTextModel(settings(64, 2, 2)), CLIPTextModelWithProjection(settings(192, 3, 4))


def random_caption_scene(rng: random.Random) -> Scene:
    """Return a random scene for a caption."""
    name = rng.choice(tuple(OBJECTS)) if rng.random() < 0.93 else None
    return Scene(
        object=name,
        colour=rng.choice(COLOURS) if name and rng.random() < 0.7 else None,
        setting=rng.choice(SETTINGS) if rng.random() < 0.8 else None,
        style=rng.choice(STYLES) if rng.random() < 0.75 else "general",
        size=rng.choice(SIZES) if name and rng.random() < 0.4 else "normal",
        position=rng.choice(POSITIONS) if name and rng.random() < 0.4 else "centre",
    )


def _length(pair: tuple[str, Scene]) -> int:
    return len(pair[0])


def train_encoders(
    folder: Path, minutes: float, seed: int = 3
) -> tuple[CLIPTokenizer, CLIPTextModel, CLIPTextModelWithProjection]:
    """Train both encoders, resuming from the checkpoint in `folder`."""
    tokenizer = build_tokenizer(folder / "tokenizer")
    first, second = build_encoders(tokenizer)
    head = nn.Linear(first.config.hidden_size, LENGTH)
    encoders = nn.ModuleList([first, second, head])
    path = folder / "encoders.pt"
    steps, spent = 0, 0.0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        encoders.load_state_dict(saved["weights"])
        steps, spent = saved["steps"], saved["spent"]
    codes, rng = Codes(), random.Random(seed + steps)
    optimizer = optimizing.Muon(encoders, 3e-3)
    budget = optimizing.Budget(minutes, spent)
    begun = steps
    batches: list[list[tuple[str, Scene]]] = []
    while budget.share < 1:
        learning_rate = 3e-3 * min(1, (steps - begun + 1) / 50) * max(0.02, 1 - budget.share)
        optimizing.set_learning_rate(optimizer, learning_rate)
        if not batches:
            # Captions of similar length share a batch, because padding is computed in vain.
            drawn = [random_caption_scene(rng) for _ in range(BATCH * 6)]
            captioned = sorted(((write_caption(scene, rng), scene) for scene in drawn), key=_length)
            batches = [captioned[i : i + BATCH] for i in range(0, len(captioned), BATCH)]
            rng.shuffle(batches)
        captions, scenes = zip(*batches.pop(), strict=True)
        tokens = tokenizer(
            list(captions), padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
        ).input_ids
        target = codes.encode(list(scenes))
        with optimizing.autocast():
            given_second = second(tokens).text_embeds
            given_first = head(first(tokens).pooler_output)
        loss = torch.zeros(())
        rows = [codes.indices(scene) for scene in scenes]
        for vectors in (given_second.float(), given_first.float()):
            loss = loss + functional.mse_loss(vectors, target)
            for name, part in codes.split(vectors).items():
                if name in NAMES:
                    table = codes.tables[name][: len(NAMES[name]) + 1]
                    distances = torch.cdist(part, table).square() / part.shape[-1]
                    labels = torch.tensor([row[name] for row in rows])
                    loss = loss + 0.2 * functional.cross_entropy(-4 * distances, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoders.parameters(), 1.0)
        optimizer.step()
        steps += 1
        if steps % 50 == 0:
            print(f"encoders step {steps} {budget.spent:.0f} s loss {loss.item():.4f}", flush=True)
    optimizing.save(path, {"weights": encoders.state_dict(), "steps": steps, "spent": budget.spent})
    return tokenizer, first.eval(), second.eval()


def load_encoders(
    folder: Path,
) -> tuple[CLIPTokenizer, CLIPTextModel, CLIPTextModelWithProjection]:
    """Return the tokenizer and the encoders of the checkpoint in `folder`, frozen."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    first, second = build_encoders(tokenizer)
    encoders = nn.ModuleList([first, second, nn.Linear(first.config.hidden_size, LENGTH)])
    encoders.load_state_dict(torch.load(folder / "encoders.pt", weights_only=True)["weights"])
    encoders.requires_grad_(False)
    return tokenizer, first.eval(), second.eval()


@torch.no_grad()
def attribute_accuracies(
    tokenizer: CLIPTokenizer,
    second: CLIPTextModelWithProjection,
    captions: list[str],
    scenes: list[Scene],
) -> dict[str, float]:
    """Return for each attribute the share of captions whose code is decoded correctly."""
    codes = Codes()
    tokens = tokenizer(
        captions, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
    ).input_ids
    decoded = codes.decode(second(tokens).text_embeds)
    rows = [codes.indices(scene) for scene in scenes]
    return {
        name: sum(int(v) == row[name] for v, row in zip(values, rows, strict=True)) / len(rows)
        for name, values in decoded.items()
    }
