"""Prompts with weights, as Stable Diffusion WebUI's users write them.

`(word)` counts 1.1 times, `[word]` 1 / 1.1 times, `(word:1.3)` 1.3 times; they multiply where they
are nested, and what is not closed ends with the prompt. A backslash before a bracket makes it part
of the text. `BREAK` begins a new chunk of tokens. How texts become tokens is unknown here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from banatie.records import PromptSyntax

STRONGER = 1.1
"""The factor of a pair of parentheses without a number; square brackets divide by it."""

_TOKEN = re.compile(
    r"""
    \\ (?P<escaped> [()\[\]\\] )
    | : \s* (?P<weight> [+-]? (?: \d+ \.? \d* | \. \d+ ) ) \s* \)
    | (?P<bracket> [()\[\]] )
    | (?P<text> [^\\()\[\]:]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


@dataclass(frozen=True)
class WeightedText:
    """A part of a prompt and its weight."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class WeightedPrompt:
    """A prompt in sections, each of which begins a new chunk of tokens."""

    sections: tuple[tuple[WeightedText, ...], ...]


Prompt = str | WeightedPrompt
"""A plain text, or one with weights."""


def read_prompt(text: str, syntax: PromptSyntax) -> Prompt:
    """The prompt as its syntax says; without any weight and BREAK, its text."""
    if syntax == "plain":
        return text
    parts = parse_weights(text)
    sections: list[list[WeightedText]] = [[]]
    for part in parts:
        first, *others = _BREAK.split(part.text)
        sections[-1].append(replace(part, text=first))
        sections += [[replace(part, text=other)] for other in others]
    kept = [tuple(each for each in section if each.text) for section in sections]
    if len(kept) == 1 and all(each.weight == 1 for each in kept[0]):
        return "".join(each.text for each in kept[0])
    return WeightedPrompt(tuple(kept))


def parse_weights(text: str) -> list[WeightedText]:
    """The parts of a prompt, neighbours of one weight together."""
    parts: list[WeightedText] = []
    round_, square = [], []

    def scale(start: int, factor: float) -> None:
        parts[start:] = [replace(each, weight=each.weight * factor) for each in parts[start:]]

    for token in _TOKEN.finditer(text):
        bracket, weight = token["bracket"], token["weight"]
        if bracket == "(":
            round_.append(len(parts))
        elif bracket == "[":
            square.append(len(parts))
        elif weight is not None and round_:
            scale(round_.pop(), float(weight))
        elif bracket == ")" and round_:
            scale(round_.pop(), STRONGER)
        elif bracket == "]" and square:
            scale(square.pop(), 1 / STRONGER)
        else:
            parts.append(WeightedText(token["escaped"] or token[0]))
    for start in round_:
        scale(start, STRONGER)
    for start in square:
        scale(start, 1 / STRONGER)
    return _merged(parts)


def has_weights(text: str) -> bool:
    """Whether a prompt in the syntax of WebUI weighs anything, or has a BREAK."""
    return isinstance(read_prompt(text, "webui"), WeightedPrompt)


def escape(text: str) -> str:
    """The prompt that stands for this text, whatever brackets are in it."""
    return re.sub(r"([()\[\]\\])", r"\\\1", text)


def apply_weights(states: torch.Tensor, weights: Sequence[Sequence[float]]) -> torch.Tensor:
    """One encoder's outputs with each token's multiplied by its weight, chunk by chunk.

    `states` is (chunks, tokens, width), `weights` the same without width. As WebUI does it: after
    that, each chunk is scaled so that its mean is what it was before.
    """
    factors = torch.tensor(weights, device=states.device).unsqueeze(-1)
    whole = states.float()
    weighted = whole * factors
    before = whole.mean(dim=(1, 2), keepdim=True)
    after = weighted.mean(dim=(1, 2), keepdim=True)
    is_weighted = (factors != 1).any(dim=1, keepdim=True)
    # A mean of zero, which no ratio can restore, stays as it is.
    scale = torch.where(after != 0, before / after, torch.ones_like(after))
    return torch.where(is_weighted, (weighted * scale).to(states.dtype), states)


def _merged(parts: Sequence[WeightedText]) -> list[WeightedText]:
    merged: list[WeightedText] = []
    for part in parts:
        if merged and merged[-1].weight == part.weight:
            merged[-1] = replace(part, text=merged[-1].text + part.text)
        else:
            merged.append(part)
    return merged
