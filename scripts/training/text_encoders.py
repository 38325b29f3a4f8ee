"""The two CLIP text encoders and their tokenizer, taught to give a caption's meaning.

They learn from captions alone, no pictures needed: the second encoder's pooled vector is to be
the scene's code (`codes`), and the first encoder's last state must hold it too.
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
from training.captions import every_word, say
from training.codes import LENGTH, NAMES, Codes
from training.world import COLOURS, OBJECTS, POSITIONS, SETTINGS, SIZES, STYLES, Scene
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
    """Return the 256 printable characters by which CLIP writes bytes, in CLIP's order."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + place) for place in range(len(rest))]


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write a small vocabulary in CLIP's file format and return its tokenizer.

    Every word of the captions is one token; any other text falls apart into pieces and bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer = trainers.BpeTrainer(
        vocab_size=6000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
    )
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.train_from_iterator(sorted(every_word()), trainer)
    merges = [
        tuple(pair) if not isinstance(pair, str) else tuple(pair.split(" "))
        for pair in json.loads(learner.to_str())["model"]["merges"]
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


def random_wish(chance: random.Random) -> Scene:
    """Return any scene that a caption may describe."""
    thing = chance.choice(tuple(OBJECTS)) if chance.random() < 0.93 else None
    return Scene(
        object=thing,
        colour=chance.choice(COLOURS) if thing and chance.random() < 0.7 else None,
        setting=chance.choice(SETTINGS) if chance.random() < 0.8 else None,
        style=chance.choice(STYLES) if chance.random() < 0.75 else "general",
        size=chance.choice(SIZES) if thing and chance.random() < 0.4 else "normal",
        position=chance.choice(POSITIONS) if thing and chance.random() < 0.4 else "centre",
    )


def _length(pair: tuple[str, Scene]) -> int:
    return len(pair[0])


def train_encoders(
    folder: Path, minutes: float, seed: int = 3
) -> tuple[CLIPTokenizer, CLIPTextModel, CLIPTextModelWithProjection]:
    """Train both encoders, going on from the checkpoint in `folder`."""
    tokenizer = build_tokenizer(folder / "tokenizer")
    first, second = build_encoders(tokenizer)
    head = nn.Linear(first.config.hidden_size, LENGTH)
    together = nn.ModuleList([first, second, head])
    path = folder / "encoders.pt"
    steps, spent = 0, 0.0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        together.load_state_dict(saved["weights"])
        steps, spent = saved["steps"], saved["spent"]
    codes, chance = Codes(), random.Random(seed + steps)
    optimizer = optimizing.Muon(together, 3e-3)
    budget = optimizing.Budget(minutes, spent)
    begun = steps
    waiting: list[list[tuple[str, Scene]]] = []
    while budget.share < 1:
        rate = 3e-3 * min(1, (steps - begun + 1) / 50) * max(0.02, 1 - budget.share)
        optimizing.set_rate(optimizer, rate)
        if not waiting:
            # Captions of like length go together: padding costs and, after the end, counts not.
            drawn = [random_wish(chance) for _ in range(BATCH * 6)]
            said = sorted(((say(scene, chance), scene) for scene in drawn), key=_length)
            waiting = [said[i : i + BATCH] for i in range(0, len(said), BATCH)]
            chance.shuffle(waiting)
        captions, scenes = zip(*waiting.pop(), strict=True)
        tokens = tokenizer(
            list(captions), padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
        ).input_ids
        wanted = codes.encode(list(scenes))
        with optimizing.autocast():
            given = second(tokens).text_embeds
            told = head(first(tokens).pooler_output)
        loss = torch.zeros(())
        rows = [codes.indices(scene) for scene in scenes]
        for vectors in (given.float(), told.float()):
            loss = loss + functional.mse_loss(vectors, wanted)
            for name, part in codes.split(vectors).items():
                if name in NAMES:
                    table = codes.tables[name][: len(NAMES[name]) + 1]
                    far = torch.cdist(part, table).square() / part.shape[-1]
                    answer = torch.tensor([row[name] for row in rows])
                    loss = loss + 0.2 * functional.cross_entropy(-4 * far, answer)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(together.parameters(), 1.0)
        optimizer.step()
        steps += 1
        if steps % 50 == 0:
            print(f"encoders step {steps} {budget.spent:.0f} s loss {loss.item():.4f}", flush=True)
    optimizing.save(path, {"weights": together.state_dict(), "steps": steps, "spent": budget.spent})
    return tokenizer, first.eval(), second.eval()


def load_encoders(
    folder: Path,
) -> tuple[CLIPTokenizer, CLIPTextModel, CLIPTextModelWithProjection]:
    """Return the tokenizer and the encoders of the checkpoint in `folder`, frozen."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    first, second = build_encoders(tokenizer)
    together = nn.ModuleList([first, second, nn.Linear(first.config.hidden_size, LENGTH)])
    together.load_state_dict(torch.load(folder / "encoders.pt", weights_only=True)["weights"])
    together.requires_grad_(False)
    return tokenizer, first.eval(), second.eval()


@torch.no_grad()
def understanding(
    tokenizer: CLIPTokenizer,
    second: CLIPTextModelWithProjection,
    captions: list[str],
    scenes: list[Scene],
) -> dict[str, float]:
    """Return for each attribute the share of captions whose meaning is read off rightly."""
    codes = Codes()
    tokens = tokenizer(
        captions, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
    ).input_ids
    read = codes.read(second(tokens).text_embeds)
    rows = [codes.indices(scene) for scene in scenes]
    return {
        name: sum(int(v) == row[name] for v, row in zip(values, rows, strict=True)) / len(rows)
        for name, values in read.items()
    }
