"""The things that a model with a small vocabulary can paint, from the file in its folder.

The bundled model has such a file (`known_words.json`), which lists names of objects and of
settings. A model without one is taken to know everything. How a model was trained is unknown here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from banatie.errors import ModelBroken

FILE = "known_words.json"

_WORD = re.compile(r"[^\W_]+")


class KnownWords:
    """The names of what a model can paint."""

    def __init__(self, names: Collection[str]) -> None:
        """`names` are words or several words each, in the singular."""
        self._names = {tuple(_WORD.findall(name.lower())) for name in names} - {()}
        self._longest = max(map(len, self._names), default=0)

    @classmethod
    def load(cls, folder: Path) -> KnownWords | None:
        """The words of the model in this folder; None if it has no list. Raises ModelBroken."""
        try:
            listed = json.loads((folder / FILE).read_text("utf-8"))
            return cls([name for names in listed.values() for name in names])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise ModelBroken(f"{folder / FILE} cannot be read ({error})") from error

    def names_any(self, prompt: str) -> bool:
        """Whether the prompt names anything that the model can paint."""
        words = _WORD.findall(prompt.lower())
        for start in range(len(words)):
            for length in range(1, self._longest + 1):
                if tuple(words[start : start + length]) in self._names:
                    return True
        return False
