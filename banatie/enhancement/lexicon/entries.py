"""The lexicon: what is known of things, by the names that people call them.

The data is one TOML file for each kind in `things/`; `docs/enhancement.md` explains its fields.
Knows no prompt and imports no torch.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

LONGEST_NAME = 4
"""Words in the longest name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one thing; each phrase describes what can be seen."""

    name: str
    kind: str
    """The name of the entry's file: animals, people, buildings …"""
    details: tuple[str, ...]
    """Its parts and surfaces; true of every such thing."""
    poses: tuple[str, ...]
    around: tuple[str, ...]
    light: tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """All entries with the indexes of their names."""

    entries: Mapping[str, Entry]
    singulars: Mapping[str, str]
    plurals: Mapping[str, str]
    """English names in lower case, with the name of the entry."""
    foreign: Mapping[str, Mapping[str, str]]
    """The same in other languages, by language code."""

    @classmethod
    @cache
    def load(cls) -> Lexicon:
        """The lexicon of the files in `things/`; read once."""
        entries: dict[str, Entry] = {}
        singulars: dict[str, str] = {}
        plurals: dict[str, str] = {}
        foreign: dict[str, dict[str, str]] = {}
        folder = resources.files("banatie.enhancement.lexicon").joinpath("things")
        for file in sorted(folder.iterdir(), key=lambda each: each.name):
            if not file.name.endswith(".toml"):
                continue
            kind = file.name.removesuffix(".toml")
            for name, fields in tomllib.loads(file.read_text("utf-8")).items():
                entries[name] = Entry(
                    name,
                    kind,
                    *(_split(fields.get(f, "")) for f in ("details", "poses", "around", "light")),
                )
                for names in fields["names"].split(", "):
                    one, _, many = names.partition("/")
                    singulars.setdefault(one, name)
                    plurals.setdefault(many or plural(one), name)
                for words in _split(fields.get("other", "")):
                    language, _, others = words.partition(" ")
                    index = foreign.setdefault(language, {})
                    for other in others.split(", "):
                        index.setdefault(other.lower(), name)
        return cls(entries, singulars, plurals, foreign)

    def find(self, words: str) -> Entry | None:
        """The entry of an English name in the singular or plural."""
        name = self.singulars.get(words) or self.plurals.get(words)
        return self.entries[name] if name else None

    def is_plural(self, words: str) -> bool:
        """Whether a name is a plural: `mice`, `boots`."""
        return words in self.plurals or (words in self.singulars and words.endswith("s"))


def plural(name: str) -> str:
    """The regular English plural of a name; of `cup of tea` that of the first word."""
    first, of, rest = name.partition(" of ")
    if of:
        return plural(first) + of + rest
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2:-1] not in tuple("aeiou"):
        return name[:-1] + "ies"
    return name + "s"


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split("; ")) if text else ()
