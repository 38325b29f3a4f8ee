"""Reading prompts in other languages: the first thing and where it is.

Only whole names are found; of a language's grammar little more than its articles is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from banatie.enhancement.lexicon.entries import LONGEST_NAME, Lexicon
from banatie.enhancement.lexicon.said import Reading, Thing
from banatie.enhancement.lexicon.words import Words

WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*|[.,;:!?]")
STOPS = frozenset(".,;:!?")
FAMILIES = {"de": "germanic", "nl": "germanic"}
"""The others are romance languages."""
AMBIGUOUS = frozenset(
    {"in", "die", "on", "no", "a", "o", "as", "do", "me", "an", "so", "was", "al", "os", "van"}
    | {"con", "para", "per", "or", "et", "est", "en", "e", "i"}
)
"""Words of other languages' grammar that may also stand in English prompts."""
Classes = Mapping[str, frozenset[str]]


def read_foreign(text: str, lexicon: Lexicon, words: Words) -> Reading | None:
    """What a prompt in another language says; None for English ones and unknown languages."""
    found = [word.lower() for word in WORD.findall(re.sub(r"\b([dl])['’]", r"\1 ", text))]
    plain = [word for word in found if word not in STOPS]
    english = [
        bool(words.of(word)) or word in words.verb_forms or lexicon.find(word) is not None
        for word in plain
    ]
    if not plain or plain[0] in ("a", "an") or "the" in plain or all(english):
        return None
    best, score = "", 0
    signs_of_any = False
    for language, names in lexicon.foreign.items():
        family = words.families[FAMILIES.get(language, "romance")]
        grammar = frozenset().union(*family.values()) - AMBIGUOUS
        hits = sum(_longest(plain, position, names)[0] > 0 for position in range(len(plain)))
        signs = sum(word in grammar for word in plain)
        signs_of_any = signs_of_any or (signs > 0 and plain[0] in family["article"] - AMBIGUOUS)
        known = hits and (signs or not any(english))
        if known and 2 * signs + hits > score:
            best, score = language, 2 * signs + hits
    if best:
        family = words.families[FAMILIES.get(best, "romance")]
        return _read(found, lexicon.foreign[best], family, lexicon)
    return Reading(foreign=True) if signs_of_any and not any(english[1:]) else None


def _read(found: list[str], names: Mapping[str, str], family: Classes, lexicon: Lexicon) -> Reading:
    reading = Reading(foreign=True)
    described = family["adjective"] | family["colour"] | family["age"]
    notes = {
        "time": reading.times,
        "weather": reading.weather,
        "colour": reading.colours,
        "age": reading.ages,
        "action": reading.actions,
    }
    led = unknown = False
    position = 0
    while position < len(found):
        word = found[position]
        length, name = _longest(found, position, names)
        # `naranja` is a fruit, but before a noun a colour.
        if name and length == 1 and word in described and position:
            name = "" if _longest(found, position + 1, names)[1] else name
        noted = next((list_ for kind, list_ in notes.items() if word in family[kind]), None)
        if noted is not None and not (name and length > 1):
            noted.append(word)
        elif name:
            after = found[position + length] if position + length < len(found) else "."
            # `casa de muñecas` is no house; what it is is not known.
            compound = after in family["compound"]
            if led:
                reading.places.append(word if compound else name)
                reading.settings += [] if compound else [lexicon.entries[name]]
            elif not reading.subjects and not unknown and not compound:
                reading.subjects.append(Thing(lexicon.entries[name], word))
            unknown = unknown or compound
            position += length
            continue
        elif word in family["preposition"]:
            led = True
        elif led and word not in family["article"] | family["compound"] | described | STOPS:
            reading.places.append(word)
        elif word not in family["article"] | family["number"] | described | STOPS:
            # An unknown word before the first name may change what that is.
            unknown = unknown or not reading.subjects
        position += 1
    return reading


def _longest(found: list[str], position: int, names: Mapping[str, str]) -> tuple[int, str]:
    """The length of the longest name at a position, and the entry that it names."""
    for length in range(min(LONGEST_NAME, len(found) - position), 0, -1):
        name = names.get(" ".join(found[position : position + length]))
        if name:
            return length, name
    return 0, ""
