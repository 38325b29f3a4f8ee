"""Things that are no longer what their name says: on fire, dressed up, with another's head.

They have none of the details that they always have.
"""

from __future__ import annotations

from banatie.enhancement.lexicon.chunks import Chunk
from banatie.enhancement.lexicon.said import Reading
from banatie.enhancement.lexicon.words import Words

ROLES = frozenset({"as", "dressed as", "dressed like", "disguised as"})
DISGUISES = frozenset({"costume", "disguise", "mask", "onesie"})
DESTROYED = frozenset({"fire", "flames", "pieces", "shards"})
DRIVEN = frozenset({"parked", "driving", "drives", "drifting", "speeding"})
MAKES_OF_CAR = frozenset({"jaguar", "beetle"})


def transforms(chunk: Chunk, following: Chunk | None, words: Words) -> bool:
    """Whether a group changes the thing before it: `on fire`, `with the head of a bull`."""
    if not chunk.tokens:
        return False
    head = chunk.tokens[-1].text
    part_of = following is not None and following.lead == "of"
    if chunk.word == "with" and head in words.by_class["body"] and part_of:
        return True
    return chunk.word in ("in", "on") and len(chunk.tokens) == 1 and head in DESTROYED


def is_transformed(reading: Reading, words: Words) -> bool:
    """Whether what is said of the things leaves none of them as it always is."""
    entries = [thing.entry for thing in reading.subjects]
    if not entries:
        return False
    if reading.roles and entries[0].kind == "people":
        # `my grandmother as a superhero`; a dog in a costume is a dog still.
        return True
    if DRIVEN & set(reading.actions) and MAKES_OF_CAR & {entry.name for entry in entries}:
        return True
    changing = any("changed" in words.of(action) for action in reading.actions)
    burns = words.by_class["burns"]
    return changing and any(entry.name not in burns for entry in entries)
