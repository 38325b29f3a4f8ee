"""Reading a prompt: the user's words without the request and the tags, and the opening of them.

Knows no phrase that is added, no model and no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from banatie.enhancement.prompt_syntax import without_tags
from banatie.enhancement.templates import Template
from banatie.enhancement.vocabulary import WORD, Vocabulary, words_of

QUOTED = re.compile(r"\"[^\"]+\"|“[^”]+”|„[^“”]+[“”]|«[^»]+»|「[^」]+」|(?<!\w)'[^']+'(?!\w)")
MENTION = re.compile(r"(?<!\w)@[\w-]+")
SENTENCE_END = re.compile(r"[.!?…。！？]")

REQUEST = re.compile(
    r"""^\s*(?:(?:hi|hello|hey|please)\b[\s,!.]*)*
    (?:(?:can|could|would|will)\s+you\s+(?:please\s+)?|(?:i\s+(?:want|need)|i['’]d\s+like|i\s+would\s+like)\s+(?:you\s+)?(?:to\s+(?:see\s+)?)?)?
    (?:(?:draw|paint|sketch|create|make|generate|show|give|design|render|produce|illustrate|depict|
    visuali[sz]e|imagine|see)\s+(?:(?:me|us)\s+)?(?=(?:an?|the|some|two|three|four|five|my|our|one|this|these)\s|["“]))?
    (?:(?:an?|the|some)\s+(?:\w+\s+)?(?:picture|image|pic)s?\s+(?:of|with|showing)\s+)?""",
    re.IGNORECASE | re.VERBOSE,
)
"""The polite request before the subject."""
REQUEST_END = re.compile(r"(?:[\s,]+(?:please|thanks|thank you|for me))+[\s.!]*$", re.IGNORECASE)

PHRASES_TO_ADD = 4
PHRASES_TO_ADD_TO_DETAILED = 2
DETAILED_WORDS = 18
DETAILED_CLAUSES = 4
DETAILED_CHARACTERS = 200


@dataclass(frozen=True)
class Subject:
    """What the user asks for."""

    original: str
    text: str
    """The user's words without tags and the request around them, otherwise unchanged."""
    words: frozenset[str]
    """The content words, in the singular."""
    classes: frozenset[str]
    detailed: bool
    """Whether the prompt says so much that few phrases need to be added."""
    names_medium: bool

    @property
    def phrases_to_add(self) -> int:
        """How many phrases to add."""
        return PHRASES_TO_ADD_TO_DETAILED if self.detailed else PHRASES_TO_ADD


def parse_prompt(prompt: str, vocabulary: Vocabulary) -> Subject:
    """Read a prompt into its subject."""
    untagged = without_tags(prompt).strip()
    text = REQUEST_END.sub("", REQUEST.sub("", untagged, count=1)).strip()
    if untagged.endswith("?") and text != untagged:
        # The question mark belongs to the request: "can you draw …?"
        text = text.rstrip("? ")
    if not WORD.search(text):
        text = untagged
    content = vocabulary.content_words(text)
    classes = vocabulary.classes_of(without_quotations(text))
    for name in classes & vocabulary.suppresses.keys():
        classes -= vocabulary.suppresses[name]
    clauses = [part for part in re.split(r"[,;.\n]+", text) if WORD.search(part)]
    detailed = (
        len(content) > DETAILED_WORDS
        or len(clauses) >= DETAILED_CLAUSES
        or len(text) > DETAILED_CHARACTERS
    )
    return Subject(
        prompt, text, frozenset(content), classes, detailed, _names_medium(text, vocabulary)
    )


def opening(subject: Subject, template: Template, vocabulary: Vocabulary) -> str:
    """The template's medium with the user's words, joined by `of` or a colon."""
    text = subject.text.rstrip().rstrip(",;").rstrip()
    if text.endswith(".") and len(SENTENCE_END.findall(text)) == 1:
        text = text[:-1]
    if subject.names_medium:
        manner_is_new = set(vocabulary.content_words(template.manner)) - subject.words
        return join_phrases(text, [template.manner]) if manner_is_new else text
    first, *_ = [*words_of(text), ""]
    if _is_sentence(text, vocabulary) or (
        first in vocabulary.prepositions | vocabulary.foreign_openings
    ):
        return f"{template.medium}: {text}"
    if first in vocabulary.articles and text[:1].isupper():
        text = text[0].lower() + text[1:]
    return f"{template.medium} of {text}"


def join_phrases(text: str, phrases: Sequence[str]) -> str:
    """The text with the phrases appended; after the end of a sentence they start a new one."""
    if not phrases:
        return text
    added = ", ".join(phrases)
    if SENTENCE_END.search(text[-1:]):
        return f"{text} {added[0].upper()}{added[1:]}"
    return f"{text}, {added}"


def without_quotations(text: str) -> str:
    """The text without quotations and `@names`, which do not describe the picture."""
    return MENTION.sub("it", QUOTED.sub(" ", text))


def _names_medium(text: str, vocabulary: Vocabulary) -> bool:
    """Whether the prompt names its own medium: `a photo of …`, `… logo`, `… anime`."""
    first_clause = re.split(r"[,.;:]", without_quotations(text), maxsplit=1)[0]
    terms = vocabulary.terms(first_clause)
    for position, (_, classes) in enumerate(terms):
        following = terms[position + 1][0] if position + 1 < len(terms) else ""
        before = {term for term, _ in terms[:position]}
        leads = position < 3 or following in {"of", "for", "with", "showing", "in", ""}
        if "medium" in classes and leads and not before & vocabulary.prepositions:
            return True
    return "style" in vocabulary.classes_of(without_quotations(text))


def _is_sentence(text: str, vocabulary: Vocabulary) -> bool:
    outside_quotes = QUOTED.sub(" ", text)
    if re.search(r"[.!?。！？]\s+\S", outside_quotes) or "\n" in outside_quotes:
        return True
    if sum(not char.isascii() for char in outside_quotes) * 4 > len(outside_quotes):
        return True
    words = words_of(outside_quotes)
    return any(word in vocabulary.finite_verbs for word in words[:8])
