"""Composing the enhanced text: known details, phrases of the template's slots, and the token limit.

The user's words stay in one piece. Knows no model and no torch.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from banatie.enhancement.prompt import Subject, join_phrases, without_quotations
from banatie.enhancement.rules import applies_to, contradiction, rejection
from banatie.enhancement.templates import Details, Phrase, Slot, Template
from banatie.enhancement.vocabulary import MAX_TERM_WORDS, WORD, Vocabulary, singular

MATERIAL_CLASSES = frozenset({"material", "food", "object", "render", "drawing"})
"""A word of these classes before a thing says that it is only a likeness: `paper boat`."""
LIKENESS_SUFFIXES = frozenset(
    {"shaped", "sized", "themed", "styled", "inspired", "patterned", "printed"}
)
SLOT_ORDER_JITTER = 4.0
"""By how many places a slot may move back in the order, so that texts differ in their aspects."""
COMPLETION_WEIGHT = 8
SPECIFIC_WEIGHT = 3
"""Sampling weights of a model's completion and of a phrase with `needs`; any other has 1."""
MIN_PHRASE_TOKENS = 15
"""Tokens that must be free after the user's own words; otherwise another chunk is started."""
CHUNK_TOKENS = 75
"""What CLIP's text encoders read at once, without the two special tokens (arXiv:2103.00020)."""

TokenCounter = Callable[[str], int]
"""The number of tokens of a text for the painting model."""


TextMode = Literal["lexicon", "guided", "free"]


@dataclass(frozen=True)
class Composition:
    """An enhanced text, and the origin of its added phrases."""

    text: str
    from_model: tuple[str, ...] = ()
    from_slots: tuple[str, ...] = ()
    from_lexicon: tuple[str, ...] = ()
    mode: TextMode = "guided"
    """Who wrote it: the lexicon, a small model guided by the template, or a larger one."""


def select_phrases(
    template: Template,
    subject: Subject,
    written: Sequence[str],
    completions: Mapping[str, str],
    vocabulary: Vocabulary,
    seed: int,
) -> tuple[list[str], list[str]]:
    """The phrases to add, and those of them that come from the template.

    `written` are the model's own phrases, `completions` its completions of stems by slot. Known
    details of the subject come next, then one phrase a slot, up to the subject's number of phrases.
    """
    # A string seeds the same on every machine and in every process, unlike a tuple.
    rng = random.Random(f"{seed} {template.name} {subject.text}")
    phrases, from_slots = list(written), []
    details = tuple(map(Phrase, known_details(subject, template.details, vocabulary)))
    for _ in range(template.details_shown):
        fitting = fitting_phrases(Slot("details", details), subject, phrases, vocabulary)
        if fitting and len(phrases) < subject.phrases_to_add:
            phrases.append(rng.choice(fitting).text)
            from_slots.append(phrases[-1])
    order = {
        slot.name: place + rng.uniform(0, SLOT_ORDER_JITTER)
        for place, slot in enumerate(template.slots)
    }
    for slot in sorted(template.slots, key=lambda slot: order[slot.name]):
        if len(phrases) >= subject.phrases_to_add:
            break
        fitting = fitting_phrases(slot, subject, phrases, vocabulary)
        weights = [SPECIFIC_WEIGHT if phrase.needs else 1 for phrase in fitting]
        clause = completions.get(slot.name)
        if clause and rejection(clause, subject, phrases, vocabulary) is None:
            # A model completes a stem alike for many subjects, so it is only one of the choices.
            fitting, weights = [Phrase(clause), *fitting], [COMPLETION_WEIGHT, *weights]
        if fitting:
            phrases.append(rng.choices(fitting, weights)[0].text)
            if phrases[-1] != clause:
                from_slots.append(phrases[-1])
    return phrases, from_slots


def fitting_phrases(
    slot: Slot, subject: Subject, chosen: Sequence[str], vocabulary: Vocabulary
) -> list[Phrase]:
    """The phrases of a slot that fit the subject and the phrases already chosen."""
    known = subject.words.union(*(vocabulary.content_words(phrase) for phrase in chosen))

    def fits(phrase: Phrase) -> bool:
        content = set(vocabulary.content_words(phrase.text))
        return (
            applies_to(phrase, subject)
            and 2 * len(content - known) > len(content)
            and contradiction(phrase.text, subject, chosen, vocabulary) is None
        )

    return [phrase for phrase in slot.phrases if fits(phrase)]


def known_details(subject: Subject, details: Details, vocabulary: Vocabulary) -> tuple[str, ...]:
    """The known visible details of the thing that the prompt begins with.

    Empty where the word only modifies another (`cat burglar`), names an owner (`dog's bowl`), or
    where the thing is only a likeness (`paper boat`).
    """
    found = list(WORD.finditer(without_quotations(subject.text)))
    words = [match[0].lower().replace("’", "'") for match in found]
    # After a preposition comes the setting.
    head = list(takewhile(lambda word: word not in vocabulary.prepositions, words))
    if "graphic" in subject.classes:
        return ()
    for start in range(len(head)):
        before = vocabulary.classes_of(words[start - 1]) if start else frozenset()
        for end in range(min(start + MAX_TERM_WORDS, len(head)), start, -1):
            term = " ".join([*words[start : end - 1], singular(words[end - 1])])
            for kind, entries in details.items():
                likeness = before & MATERIAL_CLASSES and kind not in {"things", "buildings"}
                if term in entries and not likeness and _is_head_noun(found, end, vocabulary):
                    return entries[term]
    return ()


def _is_head_noun(found: list[re.Match[str]], end: int, vocabulary: Vocabulary) -> bool:
    """Whether the words up to `end` name a thing, and do not just modify the next word."""
    if found[end - 1][0].endswith(("'s", "’s")):
        return False
    if end == len(found):
        return True
    word = found[end][0].lower()
    if found[end].string[found[end - 1].end() : found[end].start()].strip():
        return True
    grammar_words = (
        vocabulary.function_words
        | vocabulary.prepositions
        | vocabulary.finite_verbs
        | vocabulary.foreign_openings
    )
    classes = vocabulary.classes_of(word)
    participle = word.endswith(("ing", "ed")) and word not in LIKENESS_SUFFIXES
    return word in grammar_words or participle or bool(classes and classes <= vocabulary.adjectival)


def fit_to_chunks(text: str, phrases: Iterable[str], count_tokens: TokenCounter) -> list[str]:
    """The phrases that fit after the text into the text encoders' chunks of 75 tokens."""
    chunks = -(-(count_tokens(text) + MIN_PHRASE_TOKENS) // CHUNK_TOKENS)
    limit = max(chunks, 1) * CHUNK_TOKENS
    kept: list[str] = []
    for phrase in phrases:
        if count_tokens(join_phrases(text, [*kept, phrase])) <= limit:
            kept.append(phrase)
    return kept
