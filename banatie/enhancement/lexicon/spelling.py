"""Correcting one typing error in the name of a thing."""

from __future__ import annotations

from banatie.enhancement.lexicon.entries import Lexicon
from banatie.enhancement.lexicon.words import Words

SHORTEST = 6
"""Letters; shorter words are too often other words."""


def corrected(word: str, lexicon: Lexicon, words: Words) -> str | None:
    """The one name from which a word differs by a letter left out, doubled or swapped.

    None where there is no such name or more than one, and for words that are no mistakes.
    """
    if len(word) < SHORTEST or word in words.by_class["other_nouns"] or words.of(word):
        return None
    if word in words.verb_forms or not word.isalpha():
        return None
    found = {
        name
        for name in (*_swapped(word), *_undoubled(word), *_inserted(word))
        if lexicon.find(name) is not None
    }
    return found.pop() if len(found) == 1 else None


def _swapped(word: str) -> list[str]:
    return [
        word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        for i in range(1, len(word) - 1)
        if word[i] != word[i + 1]
    ]


def _undoubled(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i in range(1, len(word) - 1) if word[i] == word[i + 1]]


def _inserted(word: str) -> list[str]:
    """With one more letter, but not before the first nor after the last."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [word[:i] + letter + word[i:] for i in range(1, len(word)) for letter in letters]
