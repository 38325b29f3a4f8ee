"""Reading English prompts: the part that each noun group plays, and the things they name.

A thing is found only by the last noun of its group, and only where every word before that noun is
known to leave it the same thing: a cat burglar is no cat, a paper boat no boat.
"""

from __future__ import annotations

from banatie.enhancement.lexicon.chunks import LEADS, Chunk, Chunker, Token, tokenize
from banatie.enhancement.lexicon.entries import Entry, Lexicon
from banatie.enhancement.lexicon.modifiers import (
    ADJECTIVES,
    FIRST_YEAR,
    MANY,
    PLACES,
    Matcher,
    is_noun_like,
    note_attributes,
    number_of,
)
from banatie.enhancement.lexicon.said import Reading, Thing
from banatie.enhancement.lexicon.spelling import corrected
from banatie.enhancement.lexicon.transformed import (
    DISGUISES,
    ROLES,
    is_transformed,
    transforms,
)
from banatie.enhancement.lexicon.words import Words
from banatie.enhancement.prompt import MENTION

STRIPPED = frozenset(
    ("colour", "mood", "size", "age", "quality", "medium", "weather_adjective", "empty")
)
"""Classes of words that may follow a thing: `a dog, happy and wet`; `cat photo`."""
GRAMMAR = frozenset({*LEADS, "stop", "determiner", "number"})
OF_IS_HARMLESS = frozenset({"map", "bouquet", "logo", "badge", "lettering", "mural", "graffiti"})


class EnglishReader:
    """Tells the groups of one English prompt apart by the parts that they play."""

    def __init__(self, text: str, lexicon: Lexicon, words: Words) -> None:
        self._lexicon = lexicon
        self._words = words
        tokens = tokenize(text, lexicon, words)
        self._cut = Chunker(tokens, words).cut()
        content = [token for token in tokens if not token.classes & GRAMMAR]
        self._title_case = len(content) > 1 and all(t.written[:1].isupper() for t in content)
        self._matcher = Matcher(lexicon, words, self._title_case)
        self._reading = Reading(camera=list(self._cut.camera), actions=list(self._cut.actions))
        self._reading.names = MENTION.findall(text)
        self._failed = False
        """Whether the first subject is not known; then no other is looked for."""

    def read(self) -> Reading:
        chunks, reading = self._cut.chunks, self._reading
        role_of_of = ""
        for position, chunk in enumerate(chunks):
            following = chunks[position + 1] if position + 1 < len(chunks) else None
            role = role_of_of if chunk.lead == "of" and role_of_of else self._role(chunk)
            role_of_of = ""
            if not self._title_case:
                reading.names += _names(chunk)
            self._failed |= transforms(chunk, following, self._words)
            if role == "ignored":
                continue
            if role == "without":
                reading.without += [token.text for token in chunk.tokens[-1:]]
                continue
            if following and following.lead == "of" and self._is_transparent(chunk):
                role_of_of = role
                following.number = following.number or _group_number(chunk)
                note_attributes(self._reading, chunk.tokens[:-1])
                continue
            self._strip(chunk)
            if role == "place":
                self._place(chunk)
            elif role == "subject":
                self._subject(chunk, following)
            else:
                note_attributes(self._reading, chunk.tokens)
            if role != "subject":
                self._count(chunk, known=False)
        if self._failed or is_transformed(reading, self._words):
            reading.subjects = []
        return reading

    def _role(self, chunk: Chunk) -> str:
        lead = chunk.lead
        if lead in ("simile", "likeness_phrase"):
            if lead == "likeness_phrase":
                self._failed = True
                self._reading.materials += [
                    t.text for t in chunk.tokens[-1:] if "made" in chunk.word
                ]
            if chunk.word in ROLES:
                self._reading.roles += [token.text for token in chunk.tokens[-1:]]
            return "ignored"
        if lead == "negation":
            return "without"
        if lead == "preposition":
            aimed = chunk.word == "at" and chunk.after in self._words.by_class["verb_aimed"]
            return "other" if aimed else "place"
        if lead == "verb" and chunk.word in self._words.by_class["verb_worn"]:
            return "other"
        if chunk.word == "with" and chunk.tokens and chunk.tokens[-1].text in self._words.parts:
            return "other"
        if lead in ("neutral_preposition", "pronoun", "auxiliary", "of"):
            return "other"
        if lead in ("stop", "conjunction") and (self._reading.subjects or self._failed):
            joined = chunk.word in ("and", "or") and chunk.clause == 0
            return "subject" if joined else "other"
        return "subject" if chunk.clause == 0 or not self._reading.subjects else "other"

    def _is_transparent(self, chunk: Chunk) -> bool:
        """Whether the thing is named only after `of`: `a herd of`, `a photo of`, `a cup of`."""
        if not chunk.tokens or chunk.possessed:
            # `two of them`; `a dozen of`.
            return not chunk.tokens and bool(chunk.number)
        head = chunk.tokens[-1]
        return bool(head.classes & {"medium", "group", "measure", "camera"}) and not any(
            token.noun for token in chunk.tokens[:-1]
        )

    def _strip(self, chunk: Chunk) -> None:
        """Take words off the end of a group that name no thing: `cat photo`, `dog, happy`."""
        self._correct(chunk)
        while len(chunk.tokens) > 1:
            last = chunk.tokens[-1]
            if last.noun or not last.classes & STRIPPED:
                return
            note_attributes(self._reading, [last])
            chunk.tokens.pop()

    def _correct(self, chunk: Chunk) -> None:
        if not chunk.tokens:
            return
        head = chunk.tokens[-1]
        if head.noun or head.classes or head.written[:1].isupper():
            return
        if name := corrected(head.text, self._lexicon, self._words):
            chunk.tokens[-1] = Token(name, head.written, frozenset(), True)

    # What a group says.

    def _subject(self, chunk: Chunk, following: Chunk | None) -> None:
        if not chunk.tokens:
            return
        head = chunk.tokens[-1]
        bare = not any(token.noun or not token.classes for token in chunk.tokens)
        if bare and head.classes & {"time", "weather", *ADJECTIVES}:
            note_attributes(self._reading, chunk.tokens)
            return
        entry = self._matcher.entry(chunk)
        # In an unknown compound a noun says nothing: a snow leopard is in no snow.
        note_attributes(
            self._reading, [t for t in chunk.tokens[:-1] if entry or not is_noun_like(t)]
        )
        self._empty(chunk, entry)
        if entry is not None and entry.kind == "logos":
            entry = self._logo(entry, following)
        elif entry is not None and chunk.before_of:
            entry = self._place_of_name(entry, following)
        if entry is None and chunk.lead == "beside" and chunk.word not in ("with", "and"):
            # What is beside the first thing says where that is.
            self._reading.places.append(head.text)
        self._count(chunk, known=entry is not None)
        if entry is None:
            self._failed = self._failed or not self._reading.subjects
        elif entry not in [thing.entry for thing in self._reading.subjects]:
            count = number_of(chunk)
            if count <= 1 and not chunk.determined and self._is_several(head.text):
                count = MANY
            self._reading.subjects.append(Thing(entry, head.text, max(count, 1)))
        if chunk.actions:
            self._reading.actions += chunk.actions

    def _empty(self, chunk: Chunk, entry: Entry | None) -> None:
        """Note that an empty place has no people."""
        empty = any("empty" in token.classes for token in chunk.tokens)
        if empty and entry is not None and entry.kind in PLACES:
            self._reading.without.append("people")

    def _is_several(self, word: str) -> bool:
        return word in self._lexicon.plurals and word not in self._lexicon.singulars

    def _place_of_name(self, entry: Entry, following: Chunk | None) -> Entry | None:
        """An entry before `of`: few stay what they are: `streets of Tokyo`, `map of a town`."""
        if entry.name in OF_IS_HARMLESS:
            return entry
        named = following is not None and all(t.written[:1].isupper() for t in following.tokens)
        # The Statue of Liberty is no statue in a square with pigeons.
        return entry if named and entry.kind in PLACES and entry.name != "statue" else None

    def _logo(self, entry: Entry, following: Chunk | None) -> Entry:
        """The logo of a trade: `a logo for a yoga studio`."""
        if following is not None and following.lead in ("neutral_preposition", "of"):
            trade = " ".join(token.text for token in following.tokens)
            return self._lexicon.find(f"{trade} logo") or entry
        return entry

    def _place(self, chunk: Chunk) -> None:
        tokens = chunk.tokens
        if not tokens:
            return
        head = tokens[-1]
        if head.classes & {"time", "weather"}:
            note_attributes(self._reading, tokens)
            return
        if self._title_case or not head.written[:1].isupper():
            # New York is not new.
            note_attributes(self._reading, tokens[:-1])
        adjective = not head.noun and head.classes & ADJECTIVES
        if not adjective and head.text in DISGUISES:
            self._reading.roles.append(head.text)
        if adjective or head.text in self._words.by_class["not_a_place"]:
            return
        entry = self._matcher.entry(chunk)
        if entry is not None and entry.kind == "clothing":
            return
        self._empty(chunk, entry)
        self._reading.places.append(entry.name if entry else head.text)
        if entry is not None:
            self._reading.settings.append(entry)

    def _count(self, chunk: Chunk, known: bool) -> None:
        number = number_of(chunk)
        if 1 < number < FIRST_YEAR and chunk.tokens and chunk.lead != "negation":
            self._reading.counts.append(number)


def _group_number(chunk: Chunk) -> str:
    """The number that a group gives to what comes after `of`: `a herd of`, `two cups of`."""
    head = chunk.tokens[-1] if chunk.tokens else None
    if head is not None and "group" in head.classes and "measure" not in head.classes:
        return "many"
    if head is not None and head.text in ("pair", "glass", "cup"):
        return ""
    return chunk.number if chunk.number not in ("one",) else ""


def _names(chunk: Chunk) -> list[str]:
    """The proper names of a group: `Amelia Earhart`, `Paris`."""
    names: list[str] = []
    name: list[str] = []
    for token in [*chunk.tokens, None]:
        if token is not None and _is_name(token, in_name=bool(name)):
            name.append(token.written)
        elif name:
            names.append(" ".join(name))
            name = []
    return names


def _is_name(token: Token, *, in_name: bool) -> bool:
    if not token.written[:1].isupper() or token.written.isupper():
        return False
    return not token.classes and (in_name or not token.noun)
