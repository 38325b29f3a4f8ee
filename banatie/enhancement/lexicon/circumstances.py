"""What times, weather, moods and actions look like; the data is `circumstances.toml`.

Knows no prompt but what was read of it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cache
from importlib import resources

GROUPS: Mapping[str, frozenset[str]] = {
    "people": frozenset({"people"}),
    "winged": frozenset({"birds", "insects"}),
    "living": frozenset({"animals", "birds", "sea_life", "insects", "people", "fantasy"}),
    "made": frozenset({"things", "goods", "clothing", "tools", "vehicles"}),
    "places": frozenset({"landscapes", "buildings", "rooms", "town"}),
}
"""The kinds of entries in each group of the data."""
INDOORS = frozenset({"rooms"})


@dataclass(frozen=True)
class Circumstance:
    """How one time, weather, mood … shows in a picture."""

    phrases: tuple[str, ...]
    outdoors: tuple[str, ...]
    indoors: tuple[str, ...]
    of: Mapping[str, tuple[str, ...]]
    """By group of the thing."""
    bans: frozenset[str]
    """For what is not to be seen: words that would bring it in."""

    def fitting(self, kind: str, *, inside: bool) -> tuple[str, ...]:
        """The phrases for a thing of a kind; `inside` says that the picture is of a room."""
        groups = (group for group, kinds in GROUPS.items() if kind in kinds)
        own = tuple(phrase for group in groups for phrase in self.of.get(group, ()))
        return self.phrases + own + (self.indoors if inside else self.outdoors)


@dataclass(frozen=True)
class Conflict:
    """What one of some words in a prompt keeps from being added."""

    said: frozenset[str]
    never: frozenset[str]
    kinds: frozenset[str]
    """Only for things of these kinds; for all if empty."""


@dataclass(frozen=True)
class Circumstances:
    """All of them, by sort (time, weather, mood …) and the user's word; and the conflicts."""

    by_word: Mapping[str, Mapping[str, Circumstance]]
    conflicts: tuple[Conflict, ...]

    @classmethod
    @cache
    def load(cls) -> Circumstances:
        """The circumstances of `circumstances.toml`; read once."""
        file = resources.files("banatie.enhancement.lexicon").joinpath("circumstances.toml")
        by_word: dict[str, dict[str, Circumstance]] = {}
        data = tomllib.loads(file.read_text("utf-8"))
        conflicts = tuple(
            Conflict(*(_words(entry.get(field, "")) for field in ("said", "never", "kinds")))
            for entry in data.pop("conflicts")
        )
        for sort, entries in data.items():
            index = by_word.setdefault(sort, {})
            for fields in entries.values():
                circumstance = Circumstance(
                    phrases=_split(fields.get("phrases", "")),
                    outdoors=_split(fields.get("outdoors", "")),
                    indoors=_split(fields.get("indoors", "")),
                    of={group: _split(text) for group, text in fields.get("of", {}).items()},
                    bans=_words(fields.get("bans", "")),
                )
                for word in fields["words"].split(", "):
                    index.setdefault(word, circumstance)
        return cls(by_word, conflicts)

    def find(self, sort: str, word: str) -> Circumstance | None:
        """What a word of a sort stands for."""
        return self.by_word[sort].get(word)

    def banned_by(self, said: Set[str], kind: str) -> frozenset[str]:
        """The words that may not be added where these words were said of a thing of a kind."""
        return frozenset().union(
            *(
                conflict.never
                for conflict in self.conflicts
                if conflict.said & said and (not conflict.kinds or kind in conflict.kinds)
            )
        )


def _words(text: str) -> frozenset[str]:
    return frozenset(filter(None, text.split(", ")))


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split("; ")) if text else ()
