"""The words that prompt enhancement knows, their classes, and the rules between classes.

The data is `vocabulary.toml`. Knows no prompt, no template and no model.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

MAX_TERM_WORDS = 4
"""Words in the longest entry."""
STEM_LETTERS = 5


@dataclass(frozen=True)
class Vocabulary:
    """The known words with their classes, and the rules between classes.

    The fields have the names of the data file's tables, where their meaning is explained.
    """

    entries: Mapping[str, frozenset[str]]
    """The classes of each known word or term."""
    commentary: frozenset[str]
    off_topic: frozenset[str]
    quantities: frozenset[str]
    contradictions: tuple[tuple[str, str], ...]
    strict_contradictions: tuple[tuple[str, str], ...]
    at_most_once: frozenset[str]
    adjectival: frozenset[str]
    suppresses: Mapping[str, frozenset[str]]
    requires: Mapping[str, frozenset[str]]
    function_words: frozenset[str]
    unfinished_endings: frozenset[str]
    prepositions: frozenset[str]
    articles: frozenset[str]
    foreign_openings: frozenset[str]
    finite_verbs: frozenset[str]
    classes: frozenset[str]

    @classmethod
    def load(cls) -> Vocabulary:
        """The vocabulary of `vocabulary.toml`."""
        file = resources.files("banatie.enhancement").joinpath("vocabulary.toml")
        data = tomllib.loads(file.read_text("utf-8"))
        entries: dict[str, frozenset[str]] = {}
        for name, words in data["classes"].items():
            for word in _parse_list(words):
                entries[word] = entries.get(word, frozenset()) | {name}
        rules = data["rules"]
        word_lists = data["banned"] | data["grammar"]
        return cls(
            entries=entries,
            contradictions=tuple((a, b) for a, b in rules["contradictions"]),
            strict_contradictions=tuple((a, b) for a, b in rules["strict_contradictions"]),
            at_most_once=frozenset(rules["at_most_once"]),
            adjectival=frozenset(rules["adjectival"]),
            suppresses={name: frozenset(others) for name, others in rules["suppresses"].items()},
            requires={name: frozenset(others) for name, others in rules["requires"].items()},
            classes=frozenset(data["classes"]),
            **{name: _parse_list(words) for name, words in word_lists.items()},
        )

    def terms(self, text: str) -> list[tuple[str, frozenset[str]]]:
        """The text's words in order with their classes; an entry of several words is one term."""
        words, terms, position = words_of(text), [], 0
        while position < len(words):
            for length in range(min(MAX_TERM_WORDS, len(words) - position), 0, -1):
                term = " ".join(words[position : position + length])
                found = self._lookup(term)
                if found or length == 1:
                    terms.append((term, found))
                    position += length
                    break
        return terms

    def classes_of(self, text: str) -> frozenset[str]:
        """The classes of all words of a text."""
        found: set[str] = set().union(*(classes for _, classes in self.terms(text)))
        if CJK.search(text):
            # These scripts put no spaces between words.
            for entry, classes in self.entries.items():
                if CJK.search(entry) and entry in text:
                    found |= classes
        return frozenset(found)

    def content_words(self, text: str) -> list[str]:
        """The words of a text without function words, in the singular, in order."""
        return [singular(word) for word in words_of(text) if word not in self.function_words]

    def _lookup(self, term: str) -> frozenset[str]:
        if term in self.entries:
            return self.entries[term]
        return self.entries.get(singular(term), frozenset())


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; a hyphen separates words, an apostrophe does not."""
    return [word.lower().replace("’", "'") for word in WORD.findall(text)]


def singular(word: str) -> str:
    """An English noun's likely singular; other words mostly unchanged."""
    word = word.removesuffix("'s")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes", "oes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def word_stem(word: str) -> str:
    """The beginning that related words share: `curve`, `curved`, `curves`."""
    return word[:STEM_LETTERS]


def _parse_list(text: str) -> frozenset[str]:
    """The entries of a comma-separated list, with single spaces between their words."""
    entries = (" ".join(words_of(entry)) for entry in text.split(","))
    return frozenset(entry for entry in entries if entry)
