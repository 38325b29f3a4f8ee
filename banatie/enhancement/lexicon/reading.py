"""Reading a prompt: what is in the picture, where and when, and what is not to be in it.

When in doubt nothing is found, since details of another thing do harm.
"""

from __future__ import annotations

from banatie.enhancement.lexicon.english import EnglishReader
from banatie.enhancement.lexicon.entries import Lexicon
from banatie.enhancement.lexicon.foreign import read_foreign
from banatie.enhancement.lexicon.said import Reading
from banatie.enhancement.lexicon.words import Words
from banatie.enhancement.prompt import QUOTED


def read(text: str, lexicon: Lexicon, words: Words) -> Reading:
    """Read the subject of a prompt, without tags and request."""
    quotes = [found[1:-1] for found in QUOTED.findall(text)]
    plain = QUOTED.sub(" ; ", text)
    if (reading := read_foreign(plain, lexicon, words)) is None:
        reading = EnglishReader(plain, lexicon, words).read()
    reading.quotes = quotes
    return reading
