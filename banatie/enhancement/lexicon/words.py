"""The classes of words by which a prompt is read; the data is `words.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

LONGEST_PHRASE = 4
NOUNS_IN_ING_OR_ED = 4
"""Up to this length a word in -ing or -ed is no participle: `ring`, `bed`."""
UNCLASSED = frozenset({"other_nouns", "part", "plural", "body", "burns", "any_nation"})
"""Lists whose words have no class of their own."""
_DOUBLED = "bdgklmnprt"


@dataclass(frozen=True)
class Words:
    """The words of each class, and the classes of each word."""

    by_class: Mapping[str, frozenset[str]]
    classes: Mapping[str, frozenset[str]]
    verb_forms: frozenset[str]
    """Third persons, past forms and participles of known verbs."""
    families: Mapping[str, Mapping[str, frozenset[str]]]
    """The classes of other languages' words: romance, germanic."""

    @classmethod
    @cache
    def load(cls) -> Words:
        """The words of `words.toml`; read once."""
        file = resources.files("banatie.enhancement.lexicon").joinpath("words.toml")
        data = tomllib.loads(file.read_text("utf-8"))
        by_class = {name: _parse(words) for name, words in data["english"].items()}
        classes: dict[str, frozenset[str]] = {}
        for name, words in by_class.items():
            for word in words if name not in UNCLASSED else ():
                classes[word] = classes.get(word, frozenset()) | {name}
        verbs = {name: _parse(words) for name, words in data["verbs"].items()}
        by_class |= {f"verb_{name}": words for name, words in verbs.items()}
        forms = set(verbs["past"] | verbs["irregular"] | verbs["worn"])
        for base in verbs["base"]:
            stem = base.removesuffix("e")
            forms |= {f"{base}s", f"{base}es", f"{stem}ing", f"{stem}ed", f"{base}ing", f"{base}ed"}
            if base[-1] in _DOUBLED:
                forms |= {f"{base}{base[-1]}ing", f"{base}{base[-1]}ed"}
        families = {
            family: {name: _parse(words) for name, words in data[family].items()}
            for family in ("romance", "germanic")
        }
        return cls(by_class, classes, frozenset(forms), families)

    @property
    def parts(self) -> frozenset[str]:
        """Things that, said after `with`, are only parts of another."""
        return self.by_class["part"]

    def of(self, word: str) -> frozenset[str]:
        """The classes of an English word or phrase in lower case."""
        return self.classes.get(word, frozenset())

    def is_participle(self, word: str, ending: str) -> bool:
        """Whether a word is a participle in -ing or -ed, as far as its form tells."""
        return (
            word.endswith(ending)
            and len(word) > NOUNS_IN_ING_OR_ED
            and word not in self.by_class["other_nouns"]
        )


def _parse(text: str) -> frozenset[str]:
    return frozenset(" ".join(word.split()) for word in text.split(",") if word.strip())
