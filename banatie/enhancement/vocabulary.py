"""The words that prompt enhancement knows, their classes, and the rules between classes.

The data is `words.toml`. Nothing here knows a prompt, a template or a model.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


LONGEST_TERM = 4
"""Words in the longest entry."""


@dataclass(frozen=True)
class Vocabulary:
    """The known words with their classes, and the rules between classes."""

    entries: Mapping[str, frozenset[str]]
    talk: frozenset[str]
    drift: frozenset[str]
    counted: frozenset[str]
    opposed: tuple[tuple[str, str], ...]
    unlikely: tuple[tuple[str, str], ...]
    once: frozenset[str]
    adjectival: frozenset[str]
    hides: Mapping[str, frozenset[str]]
    belongs: Mapping[str, frozenset[str]]
    function: frozenset[str]
    dangling: frozenset[str]
    prepositions: frozenset[str]
    articles: frozenset[str]
    foreign: frozenset[str]
    finite: frozenset[str]
    classes: frozenset[str]

    @classmethod
    def load(cls) -> Vocabulary:
        """The vocabulary of `words.toml`."""
        text = resources.files("banatie.enhancement").joinpath("words.toml").read_text("utf-8")
        data = tomllib.loads(text)
        entries: dict[str, frozenset[str]] = {}
        for name, words in data["classes"].items():
            for word in _listed(words):
                entries[word] = entries.get(word, frozenset()) | {name}
        rules, grammar = data["rules"], data["grammar"]
        return cls(
            entries=entries,
            talk=_listed(data["refused"]["talk"]),
            drift=_listed(data["refused"]["drift"]),
            counted=_listed(data["refused"]["counted"]),
            opposed=tuple((a, b) for a, b in rules["opposed"]),
            unlikely=tuple((a, b) for a, b in rules["unlikely"]),
            once=frozenset(rules["once"]),
            adjectival=frozenset(rules["adjectival"]),
            hides={name: frozenset(others) for name, others in rules["hides"].items()},
            belongs={name: frozenset(others) for name, others in rules["belongs"].items()},
            classes=frozenset(data["classes"]),
            **{name: _listed(words) for name, words in grammar.items()},
        )

    def terms(self, text: str) -> list[tuple[str, frozenset[str]]]:
        """The text's words in order, known ones of several words as one, with their classes."""
        words, terms, position = words_of(text), [], 0
        while position < len(words):
            for length in range(min(LONGEST_TERM, len(words) - position), 0, -1):
                term = " ".join(words[position : position + length])
                found = self._lookup(term)
                if found or length == 1:
                    terms.append((term, found))
                    position += length
                    break
        return terms

    def classes_of(self, text: str) -> frozenset[str]:
        """All classes that a text touches."""
        found: set[str] = set().union(*(classes for _, classes in self.terms(text)))
        if CJK.search(text):
            # These scripts set no spaces between words.
            for entry, classes in self.entries.items():
                if CJK.search(entry) and entry in text:
                    found |= classes
        return frozenset(found)

    def content_words(self, text: str) -> list[str]:
        """The words that carry meaning, in the singular, in order."""
        return [singular(word) for word in words_of(text) if word not in self.function]

    def _lookup(self, term: str) -> frozenset[str]:
        if term in self.entries:
            return self.entries[term]
        return self.entries.get(singular(term), frozenset())


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; a hyphen parts words, an apostrophe does not."""
    return [word.lower().replace("’", "'") for word in WORD.findall(text)]


def singular(word: str) -> str:
    """An English noun's likely singular; other words mostly as they are."""
    word = word.removesuffix("'s")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes", "oes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def root(word: str) -> str:
    """What a word shares with its relatives: `curve`, `curved`, `curves`."""
    return word[:5]


def _listed(text: str) -> frozenset[str]:
    """The entries of a comma-separated list, their words parted by single spaces."""
    entries = (" ".join(words_of(entry)) for entry in text.split(","))
    return frozenset(entry for entry in entries if entry)
