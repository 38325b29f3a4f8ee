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
from training.captions import NAMES_OF_OBJECTS, base_words, stand_in_words
from training.codes import LENGTH, Codes
from training.scene_catalog import COLOURS, POSITIONS, SETTINGS, SIZES, STYLES, Scene
from training.supply import Supply
from training.things import NOUNS, OBJECTS
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

TOKENS = 77
VOCABULARY = 6000
WIDTHS = (64, 320)
LEARNING_RATE = 3e-3
START, END = "<|startoftext|>", "<|endoftext|>"


def _byte_letters() -> list[str]:
    """Return the 256 printable characters that stand for bytes in CLIP's vocabulary, in order."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + place) for place in range(len(rest))]


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write a small vocabulary in CLIP's file format and return its tokenizer.

    Every word of the captions is one token but for rare nouns; other text is split into pieces
    and bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
    )
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    base = sorted(base_words())
    bpe.train_from_iterator([*sorted(stand_in_words()), *base * 50], trainer)
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

    return CLIPTextModel(settings(WIDTHS[0], 2, 2)), CLIPTextModelWithProjection(
        settings(WIDTHS[1], 3, 5)
    )


def random_caption_scene(rng: random.Random) -> tuple[Scene, str | None]:
    """Return a random scene for a caption, and the noun to say for its object, if one is given.

    Half of the scenes are drawn by noun, so that rare ones are learned too.
    """
    noun, colour = None, None
    name = rng.choice(_OBJECT_NAMES) if rng.random() < 0.94 else None
    if name and rng.random() < 0.55:
        noun = rng.choice(_ALL_NOUNS)
        stand_in = NOUNS.get(noun)
        name = stand_in.object if stand_in else NAMES_OF_OBJECTS[noun]
        colour = stand_in.colour if stand_in else None
    if name and OBJECTS[name].dye and rng.random() < (0.3 if colour else 0.65):
        colour = rng.choice(COLOURS)
    scene = Scene(
        object=name,
        colour=colour,
        setting=rng.choice(SETTINGS) if rng.random() < 0.8 else None,
        style=rng.choice(STYLES) if rng.random() < 0.75 else "general",
        size=rng.choice(SIZES) if name and rng.random() < 0.4 else "normal",
        position=rng.choice(POSITIONS) if name and rng.random() < 0.4 else "centre",
    )
    return scene, noun


_OBJECT_NAMES = tuple(OBJECTS)
_ALL_NOUNS = (*NAMES_OF_OBJECTS, *NOUNS)


class TextEncoders(nn.Module):
    """Both encoders with their tokenizer, and the head by which the first is trained."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.first, self.second = build_encoders(tokenizer)
        self.head = nn.Linear(WIDTHS[0], LENGTH)

    def tokenize(self, captions: list[str]) -> torch.Tensor:
        """Return the tokens of captions, N × 77."""
        return self.tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
        ).input_ids

    @torch.no_grad()
    def encode(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return hidden states, N × 77 × both widths, and pooled vectors, N × LENGTH."""
        one = self.first(tokens, output_hidden_states=True).hidden_states[-2]
        two = self.second(tokens, output_hidden_states=True)
        return torch.cat([one, two.hidden_states[-2]], -1), two.text_embeds


def caption_loss(
    vectors: torch.Tensor, rows: torch.Tensor, codes: Codes
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of vectors that should be the rows' codes, and whether objects are right."""
    loss = functional.mse_loss(vectors, codes.encode(rows))
    right = torch.zeros(())
    for place, (name, part) in enumerate(codes.split(vectors).items()):
        table, count = codes.tables[name], part.shape[-1]
        # The squared distances, by a matrix product: a thousand objects are too many to subtract.
        distances = (table.square().sum(1) - 2 * part @ table.T) / count
        loss = loss + 0.2 * functional.cross_entropy(-4 * distances, rows[:, place])
        if name == "object":
            right = (distances.detach().argmin(1) == rows[:, place]).float().mean()
    return loss, right


def train_encoders(
    encoders: TextEncoders, supply: Supply, codes: Codes, budget: optimizing.Budget
) -> int:
    """Train both encoders until the budget is spent; return the number of captions."""
    device = next(encoders.parameters()).device
    optimizer = optimizing.Muon(encoders, LEARNING_RATE)
    encoders.requires_grad_(True).train()
    report = optimizing.Report("encoders")
    steps = 0
    while budget.share < 1:
        tokens, rows = supply.captions()
        tokens, rows = tokens.to(device, non_blocking=True).long(), rows.to(device).long()
        steps += 1
        rate = LEARNING_RATE * min(1, steps / 60) * max(0.02, 1 - budget.share)
        optimizing.set_learning_rate(optimizer, rate)
        with optimizing.autocast(device):
            pooled = encoders.second(tokens).text_embeds
            summary = encoders.head(encoders.first(tokens).pooler_output)
        loss, right = caption_loss(pooled.float(), rows, codes)
        loss = loss + caption_loss(summary.float(), rows, codes)[0]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoders.parameters(), 1.0)
        optimizer.step()
        report.add(len(tokens), loss=loss.detach(), object=right)
    encoders.eval()
    report.write(force=True)
    return report.seen
