"""Composing the phrases that the lexicon adds to a prompt.

What the user said comes first: what is not to be seen, the time, the weather. It also blocks what
would speak of the same. Then details of the things, a pose, surroundings and light where the prompt
is silent, and phrases of the template's style. Knows no model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from banatie.enhancement.compose import SPECIFIC_WEIGHT, fitting_phrases
from banatie.enhancement.lexicon.circumstances import GROUPS, INDOORS, Circumstance, Circumstances
from banatie.enhancement.lexicon.said import Reading, Thing
from banatie.enhancement.lexicon.words import Words
from banatie.enhancement.prompt import Subject
from banatie.enhancement.rules import contradiction
from banatie.enhancement.templates import Template
from banatie.enhancement.vocabulary import Vocabulary, word_stem

CLASSES_OF_KINDS = {
    "animals": ("animal",),
    "birds": ("animal", "bird"),
    "sea_life": ("animal",),
    "insects": ("animal", "small-thing"),
    "people": ("person",),
    "food": ("food",),
    "drinks": ("food", "drink"),
    "plants": ("plant",),
    "landscapes": ("landscape", "outdoor"),
    "buildings": ("building",),
    "rooms": ("interior",),
    "town": ("outdoor", "building"),
    "vehicles": ("vehicle",),
    "things": ("object",),
    "goods": ("object",),
    "clothing": ("object", "clothing"),
    "tools": ("object",),
    "weather": ("landscape", "sky"),
    "events": (),
    "feelings": (),
    "fantasy": (),
    "logos": ("graphic",),
    "lettering": ("graphic", "letters"),
}
"""The vocabulary's classes of each kind, by which the template's phrases are chosen."""
CIRCUMSTANCES = ("time", "weather", "mood", "action", "age", "material", "count")
SHOWN_CIRCUMSTANCES = 2
PHRASES = 5
PHRASES_TO_DETAILED = 3
SCENES = frozenset({"general", "photorealistic", "illustration", "comic"})
"""The templates whose pictures have surroundings."""
LIT = frozenset({"general", "photorealistic"})
YOUNG_BELOW, OLD_FROM = 30, 55
"""Years."""
MASS_OR_PLURAL = re.compile(r"(?:s|fur|hair|skin|down|wool|plumage|coat)$", re.IGNORECASE)
AFTER_HEAD = re.compile(
    r" (?:with|of|in|on|at|to|for|from|over|under|around|along|behind|between|into|through|by|up|"
    r"\w+ing|\w+ed|curled|caught|worn|held|drawn|half)\b"
)


@dataclass(frozen=True)
class Addition:
    """The phrases that one composition adds, in order."""

    phrases: tuple[str, ...]
    style: tuple[str, ...]
    """Those of them that come from the template."""


class Speaker:
    """Composes additions to one prompt in one template."""

    def __init__(
        self,
        reading: Reading,
        subject: Subject,
        template: Template,
        vocabulary: Vocabulary,
        circumstances: Circumstances,
    ) -> None:
        self._reading = reading
        self._template = template
        self._vocabulary = vocabulary
        self._circumstances = circumstances
        # What lies on a table says nothing of the table; who is in a forest, something of it.
        self._settings = [entry for entry in reading.settings if entry.kind in GROUPS["places"]]
        kinds = [thing.entry.kind for thing in reading.subjects]
        kinds += [] if kinds else [entry.kind for entry in self._settings]
        known = {name for kind in kinds for name in CLASSES_OF_KINDS[kind]}
        self._subject = replace(subject, classes=subject.classes | known)
        self._kind = kinds[0] if kinds else ""
        self._inside = "interior" in subject.classes or any(
            kind in INDOORS for kind in (*kinds[:1], *(entry.kind for entry in self._settings))
        )
        self._colours = Words.load().by_class["colour"]
        self._banned = self._banned_words()
        self._said = {word_stem(word) for word in subject.words}

    def compose(self, rng: random.Random) -> Addition:
        """One addition; another state of `rng` gives another."""
        limit = PHRASES_TO_DETAILED if self._subject.detailed else PHRASES
        style = min(self._template.style_shown, limit - 1)
        chosen: list[str] = []
        for options in self._options(rng):
            fitting = [phrase for phrase in options if self._fits(phrase, chosen)]
            if fitting and len(chosen) < limit - style:
                chosen.append(rng.choice(fitting))
        known = len(chosen)
        chosen += self._style(rng, chosen, limit - known)
        return Addition((*self._translation(), *chosen), tuple(chosen[known:]))

    @property
    def speaks(self) -> bool:
        """Whether there is anything to say: a known thing or place, or a circumstance."""
        reading = self._reading
        return bool(reading.subjects or self._settings or self._circumstantial())

    def _options(self, rng: random.Random) -> list[tuple[str, ...]]:
        """What may be said, the most important first; one phrase of each is taken."""
        reading, template = self._reading, self._template
        options = self._circumstantial()[:SHOWN_CIRCUMSTANCES]
        things = reading.subjects[:2]
        for thing in things:
            details = _details(thing, named=len(things) > 1 and not reading.foreign)
            shown = 1 if len(things) > 1 or template.details_shown == 0 else 2
            options += [details] * shown
        if not things:
            options += [entry.details for entry in self._settings[:1]] * 2
        options += self._scene(rng)
        if things and self._settings and template.name in SCENES:
            options.append(self._settings[0].details)
        return options

    def _scene(self, rng: random.Random) -> list[tuple[str, ...]]:
        """Pose, surroundings and light of the one thing, where the prompt says nothing of them."""
        reading, name = self._reading, self._template.name
        if len(reading.subjects) != 1 or reading.places or reading.roles:
            return []
        [thing] = reading.subjects
        scene = []
        if not reading.actions and thing.count == 1:
            scene.append(thing.entry.poses)
        busy = bool(reading.actions) and thing.entry.kind == "people"
        if name in SCENES and not busy and not self._is_before_background():
            scene.append(thing.entry.around)
        if name in LIT and not (reading.times or reading.weather or reading.moods):
            scene.append(thing.entry.light)
        rng.shuffle(scene)
        return scene

    def _circumstantial(self) -> list[tuple[str, ...]]:
        """The phrases of what is not to be seen, of time, weather, mood and so on."""
        reading = self._reading
        said = {
            "time": reading.times,
            "weather": reading.weather,
            "mood": reading.moods,
            "action": reading.actions,
            "age": reading.ages,
            "material": self._materials(),
            # Of mice it is not known how many they are.
            "count": [str(t.count) for t in reading.subjects[:1] if t.count in reading.counts],
        }
        found = [
            found.fitting(self._kind, inside=self._inside)
            for word in reading.without
            if (found := self._circumstances.find("without", word))
        ]
        for sort in CIRCUMSTANCES:
            if sort in ("age", "material", "count") and not reading.subjects:
                continue
            for word in said[sort]:
                circumstance = self._circumstances.find(sort, word)
                if circumstance and self._shows(sort, circumstance):
                    found.append(circumstance.fitting(self._kind, inside=self._inside))
        return [phrases for phrases in found if phrases]

    def _shows(self, sort: str, circumstance: Circumstance) -> bool:
        if self._template.name in ("sticker", "product", "minimalist") and sort in (
            "time",
            "weather",
        ):
            # Their pictures have no surroundings in which it would show.
            return self._kind in GROUPS["places"]
        return sort != "age" or self._kind not in GROUPS["living"] or "living" in circumstance.of

    def _materials(self) -> list[str]:
        """The materials said before the first thing: `a kitchen with a marble top` is not of it."""
        if not self._reading.subjects or self._reading.foreign:
            return []
        before = self._subject.text.lower().partition(self._reading.subjects[0].said)[0]
        return [material for material in self._reading.materials if material in before]

    def _is_before_background(self) -> bool:
        """Whether the prompt says what is behind the thing, or that nothing is."""
        words = {*self._subject.words, *self._reading.without}
        return bool({"background", "backdrop", "surroundings"} & words)

    def _banned_words(self) -> frozenset[str]:
        """Words that no phrase may hold, since the user said otherwise."""
        reading = self._reading
        words = re.findall(r"[\w-]+", self._subject.text.lower())
        said = {*words, *map(" ".join, pairwise(words)), *reading.ages}
        years = [int(age) for age in reading.ages if age.isdecimal()]
        said |= {"young"} if any(age < YOUNG_BELOW for age in years) else set()
        said |= {"old"} if any(age >= OLD_FROM for age in years) else set()
        banned: set[str] = {word_stem(word) for word in reading.without}
        for word in reading.without:
            if found := self._circumstances.find("without", word):
                banned |= found.bans
        return frozenset(banned | self._circumstances.banned_by(said, self._kind))

    def _fits(self, phrase: str, chosen: Iterable[str]) -> bool:
        """Whether a phrase repeats nothing, contradicts nothing, and brings in nothing excluded."""
        chosen = list(chosen)
        words = re.findall(r"[^\W\d_]+(?:'s)?", phrase.lower())
        stems = {word_stem(word) for word in self._vocabulary.content_words(phrase)}
        if self._banned & (set(words) | stems):
            return False
        taken = self._said.union(
            word_stem(word) for each in chosen for word in self._vocabulary.content_words(each)
        )
        owners = {
            word_stem(word)
            for thing in self._reading.subjects
            for word in f"{thing.said} {thing.entry.name}".split()
        }
        if stems & (taken - owners):
            return False
        classes = self._vocabulary.classes_of(phrase)
        coloured = "colour" in classes or bool(self._colours & set(words))
        if self._reading.colours and coloured:
            return False
        if self._reading.materials and "material" in classes:
            return False
        return contradiction(phrase, self._subject, chosen, self._vocabulary) is None

    def _style(self, rng: random.Random, chosen: list[str], number: int) -> list[str]:
        """Phrases of the template's style, at most one of a slot."""
        slots = [slot for slot in self._template.slots if slot.name in self._template.style_slots]
        # All slots' phrases alike, since a slot with few would repeat them.
        fitting = [
            (rng.random() ** (1 / (SPECIFIC_WEIGHT if phrase.needs else 1)), slot.name, phrase.text)
            for slot in slots
            for phrase in fitting_phrases(slot, self._subject, chosen, self._vocabulary)
        ]
        style: dict[str, str] = {}
        for _, slot_name, text in sorted(fitting, reverse=True):
            if len(style) == number:
                break
            if slot_name not in style and self._fits(text, [*chosen, *style.values()]):
                style[slot_name] = text
        return list(style.values())

    def _translation(self) -> list[str]:
        """The things in English, where the user wrote another language or mistyped."""
        found = []
        text = self._subject.text.lower()
        for thing in self._reading.subjects:
            if self._reading.foreign:
                found.append(with_article(thing.entry.name, thing.entry.kind))
            elif thing.said not in text:
                found.append(with_article(thing.said, thing.entry.kind))
        if self._reading.foreign:
            found += [with_article(entry.name, entry.kind) for entry in self._reading.settings]
        return [name for name in found if name.split()[-1] not in text.split()]


def with_article(name: str, kind: str) -> str:
    """A thing's name with the indefinite article, where it takes one."""
    if name.endswith("s") or kind in ("food", "drinks", "weather", "feelings", "events"):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _details(thing: Thing, *, named: bool) -> tuple[str, ...]:
    """The details of a thing; `named` tells whose they are, where another thing is shown too."""
    details = thing.entry.details
    if thing.count > 1:
        # Several things have several noses: only what may be said of all of them.
        details = tuple(d for d in details if MASS_OR_PLURAL.search(AFTER_HEAD.split(d)[0]))
    if not named:
        return details
    plural = thing.said.endswith("s") and not thing.said.endswith(("us", "ss", "is"))
    owner = thing.said + ("'" if plural else "'s")
    return tuple(f"the {owner} {detail}" for detail in details)
