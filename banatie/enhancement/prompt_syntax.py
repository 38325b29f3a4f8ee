"""The prompt syntax of other programs: `<lora:name:0.8>` tags, weights, wildcards.

A tag stands for a setting and is never read as words: what the encoders and the language model
read is `without_tags`. The rest is only found, because it is not supported. Which LoRAs there are
is unknown here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# As Stable Diffusion WebUI reads them (`extra_networks.py`), but for an address in brackets.
_TAG = re.compile(r"<(\w+):(?!//)([^<>]+)>")
_TAGS = re.compile(rf"\s*(?:{_TAG.pattern}\s*)+")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_UNSUPPORTED = (
    # (red:1.3); a clock or a ratio such as (at 10:30) has a digit before its colon.
    re.compile(rf"\([^()]*?[^()\d\s]\s*:\s*{_NUMBER}\s*\)|\([^()]*?:\s*\d*\.\d+\s*\)"),
    # ((red)) and [[red]]
    re.compile(r"\(\([^()]+\)\)|\[\[[^\[\]]+\]\]"),
    # {red|blue} and [red|blue]
    re.compile(r"\{[^{}|]*\|[^{}]*\}|\[[^\[\]|]*\|[^\[\]]*\]"),
    # [red:blue:0.5]
    re.compile(rf"\[[^\[\]]*:\s*{_NUMBER}\s*\]"),
    # __colour__
    re.compile(r"(?<!\w)__\w[\w/*-]*?__(?!\w)"),
    # embedding:name
    re.compile(r"(?<!\w)embedding:[\w.-]+"),
    re.compile(r"\bBREAK\b"),
)
_WEIGHTS = (*_UNSUPPORTED[:2], _UNSUPPORTED[-1])
"""What the syntax `webui` gives a meaning."""
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True)
class Tag:
    """A tag such as `<lora:pixel-art:0.8>`."""

    text: str
    kind: str
    """What comes before the first colon, in lower case."""
    arguments: tuple[str, ...]
    """What comes after it, split at the colons."""


def find_tags(prompt: str) -> list[Tag]:
    """The tags of a prompt, in their order."""
    return [
        Tag(found[0], found[1].lower(), tuple(part.strip() for part in found[2].split(":")))
        for found in _TAG.finditer(prompt)
    ]


def without_tags(prompt: str) -> str:
    """The prompt without its tags; byte for byte the same if there are none."""
    if not _TAG.search(prompt):
        return prompt

    def gap(found: re.Match[str]) -> str:
        is_last_word = prompt[found.end() : found.end() + 1] in ",.;:!?"
        return "" if is_last_word else " "

    return _TAGS.sub(gap, prompt).strip()


def unsupported_syntax(prompt: str, *, weights: bool = False) -> list[str]:
    """The first example of each kind of syntax that is not supported; tags are no part of it.

    With `weights`, those are supported, and `BREAK`.
    """
    text = without_tags(prompt)
    patterns = [each for each in _UNSUPPORTED if not (weights and each in _WEIGHTS)]
    found = [match[0] for pattern in patterns if (match := pattern.search(text))]
    return [
        example if len(example) <= _SHOWN_CHARACTERS else f"{example[:_SHOWN_CHARACTERS]}…"
        for example in found
    ]
