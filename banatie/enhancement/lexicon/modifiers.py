"""Which thing a noun group names: its last noun, if the words before leave it what it is.

Also what those words say of it. Knows no part that a group plays in the prompt.
"""

from __future__ import annotations

import re

from banatie.enhancement.lexicon.chunks import Chunk, Token
from banatie.enhancement.lexicon.entries import Entry, Lexicon
from banatie.enhancement.lexicon.said import Reading
from banatie.enhancement.lexicon.words import Words

NUMBERS = {
    word: number
    for number, word in enumerate(
        (
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
        ),
        start=1,
    )
} | {"dozen": 12, "a dozen": 12, "pair": 2, "couple of": 2, "a couple of": 2}
MANY = 99
"""The count of `many`, and of a herd."""
FIRST_YEAR = 1000
"""From here on a number is that of a year: `1967 sports car`."""
AGE_IN_YEARS = re.compile(r"^(\d{1,3})[- ]?years?[- ]old$")
ADJECTIVES = frozenset(
    (
        "colour",
        "colour_strength",
        "material",
        "age",
        "mood",
        "size",
        "quality",
        "nationality",
        "style",
        "medium",
        "weather_adjective",
        "time_adjective",
        "empty",
    )
)
"""Classes of words that leave the thing after them what it is."""
LIVING = frozenset({"animals", "birds", "sea_life", "insects", "people"})
DIFFERS_BY_NATION = LIVING | {"fantasy", "events", "clothing"}
GROWN = frozenset({"plants", "food", "landscapes"})
PLACES = frozenset({"landscapes", "buildings", "rooms", "town"})
MADE = frozenset({"things", "goods", "clothing", "tools", "food"})
"""What may well be of paper or chocolate and still be itself."""
WITH_PLACE_MODIFIER = PLACES | {"events", "weather", "people", "fantasy"}
PARTICIPLE_ADJECTIVE = re.compile(r".{3,}(?:ed|ing|ful|ous|ish|able|ible|esque|ese)$")


class Matcher:
    """Finds the entries of noun groups."""

    def __init__(self, lexicon: Lexicon, words: Words, title_case: bool) -> None:
        self._lexicon = lexicon
        self._words = words
        self._title_case = title_case
        """Whether All Words Are Written Like This, so that a capital says nothing."""

    def entry(self, chunk: Chunk) -> Entry | None:
        """The entry of a group's last noun, if the words before it leave it what it is."""
        tokens = chunk.tokens
        head = tokens[-1]
        if chunk.possessed and chunk.lead != "preposition":
            return None
        entry = self._lexicon.find(head.text)
        if entry is None:
            return None
        capitals = 0 if self._title_case else sum(t.written[:1].isupper() for t in tokens)
        if capitals > 1 and head.written[:1].isupper():
            # A name, as `Golden Gate Bridge`.
            return None
        allowed = all(self._leaves(token, entry, chunk.actions) for token in tokens[:-1])
        return entry if allowed else None

    def _leaves(self, token: Token, entry: Entry, actions: list[str]) -> bool:
        """Whether a word before a thing's name leaves it the same thing."""
        text, classes = token.text, token.classes
        by_class = self._words.by_class
        if "likeness_word" in classes:
            return False
        if "changed" in classes or text.startswith("half-"):
            return entry.name in by_class["burns"]
        if "nationality" in classes and entry.kind in DIFFERS_BY_NATION:
            return entry.name in by_class["any_nation"]
        if "likeness_material" in classes and entry.kind not in MADE - {"food"}:
            # Snow and sand are also what lies on a place; a chocolate cake is a cake.
            return entry.kind == "food" and entry.name in by_class["dish"]
        if "material" in classes:
            return entry.kind not in LIVING | GROWN | {"fantasy"} or entry.name in ("robot",)
        if token.noun and "colour" in classes and entry.kind == "plants":
            # An orange tree is not orange.
            return False
        if classes & ADJECTIVES:
            return True
        if text in actions or AGE_IN_YEARS.match(text):
            return True
        if "time" in classes or "place_modifier" in classes:
            return entry.kind in WITH_PLACE_MODIFIER
        if token.noun:
            modifier = self._lexicon.find(text)
            kinds = {modifier.kind} if modifier else set()
            if entry.name in by_class["grown"]:
                return bool(kinds & {"plants", "food"})
            return entry.name in by_class["dish"] and bool(kinds & {"food", "animals", "birds"})
        if any(text.endswith(suffix) for suffix in by_class["likeness_suffix"] if len(suffix) > 4):
            return False
        if token.written[:1].isupper():
            return entry.kind in PLACES and not self._title_case
        hyphened = "-" in text and not any(
            text.endswith(f"-{suffix}") for suffix in by_class["likeness_suffix"]
        )
        return hyphened or bool(PARTICIPLE_ADJECTIVE.match(text))


def note_attributes(reading: Reading, tokens: list[Token]) -> None:
    """Note what the words before a noun say."""
    for token, following in zip(tokens, [*tokens[1:], None], strict=False):
        text, classes = token.text, token.classes
        if "colour_strength" in classes and following and "colour" in following.classes:
            continue
        if years := AGE_IN_YEARS.match(text):
            reading.ages.append(years[1])
        elif classes & {"material", "likeness_material"} and "weather" not in classes:
            reading.materials.append(text)
        elif "colour" in classes:
            reading.colours.append(text.removesuffix("-eyed").removesuffix("-haired"))
        elif "mood" in classes:
            reading.moods.append(text)
        elif "age" in classes:
            reading.ages.append(text)
        elif classes & {"weather_adjective", "weather"}:
            reading.weather.append(text)
        elif "time" in classes:
            reading.times.append(text)


def number_of(chunk: Chunk) -> int:
    """How many things a group speaks of; MANY if not exactly."""
    if chunk.number.isdecimal():
        return int(chunk.number) if int(chunk.number) < FIRST_YEAR else 1
    return NUMBERS.get(chunk.number, MANY if chunk.number else 1)


def is_noun_like(token: Token) -> bool:
    """Whether a word before a noun may be a noun itself, and then describes nothing."""
    if token.classes & {"time", "weather"}:
        return True
    return token.noun and not token.classes & {"material", "likeness_material"}
