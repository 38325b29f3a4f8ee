"""The lexicon mode: texts composed from what the lexicon knows, of which a small model takes one.

Also the facts that a larger model is told. Knows no device and no time limit.
"""

from __future__ import annotations

import random

from banatie.enhancement.compose import Composition, TokenCounter, fit_to_chunks
from banatie.enhancement.decoding import Check, Decoder
from banatie.enhancement.guided import few_shot_prefix
from banatie.enhancement.lexicon.circumstances import GROUPS, Circumstances
from banatie.enhancement.lexicon.entries import Lexicon
from banatie.enhancement.lexicon.reading import read
from banatie.enhancement.lexicon.said import Reading
from banatie.enhancement.lexicon.saying import Addition, Speaker
from banatie.enhancement.lexicon.words import Words
from banatie.enhancement.prompt import Subject, join_phrases, opening
from banatie.enhancement.templates import Template
from banatie.enhancement.vocabulary import Vocabulary

CANDIDATES = 3
"""Whole texts of which the model takes the likeliest; they are scored in one batch."""
CONTEXT_TOKENS = 96
FACTS_SHOWN = 4
"""Details of each thing that a larger model is told."""


class LexiconMode:
    """Writes texts on things that the lexicon knows; loads the lexicon at the first prompt."""

    def __init__(self, decoder: Decoder, vocabulary: Vocabulary) -> None:
        self._decoder = decoder
        self._vocabulary = vocabulary

    def write(
        self,
        subject: Subject,
        template: Template,
        seed: int,
        count_tokens: TokenCounter,
        check: Check,
    ) -> Composition | None:
        """Compose the text of a subject; None where the lexicon has nothing to say of it.

        `check` is called around the model's work. Raises GenerationFailed when the model gives no
        usable numbers.
        """
        speaker = Speaker(
            self._read(subject), subject, template, self._vocabulary, Circumstances.load()
        )
        if not speaker.speaks:
            return None
        # A string seeds the same on every machine and in every process.
        rng = random.Random(f"{seed} {template.name} {subject.text}")
        # A dictionary keeps the order, unlike a set.
        candidates = list(dict.fromkeys(speaker.compose(rng) for _ in range(CANDIDATES)))
        text = opening(subject, template, self._vocabulary)
        chosen = self._likeliest(candidates, text, template, check)
        kept = fit_to_chunks(text, chosen.phrases, count_tokens)
        return Composition(
            join_phrases(text, kept),
            from_slots=tuple(phrase for phrase in kept if phrase in chosen.style),
            from_lexicon=tuple(phrase for phrase in kept if phrase not in chosen.style),
            mode="lexicon",
        )

    def facts(self, subject: Subject) -> str:
        """What the lexicon knows of a subject's things, in a sentence each; may be empty."""
        reading = self._read(subject)
        # What lies on a table says nothing of the table.
        settings = [entry for entry in reading.settings if entry.kind in GROUPS["places"]]
        entries = [thing.entry for thing in reading.subjects] + settings
        return " ".join(
            f"What can be seen of {entry.name}: {', '.join(entry.details[:FACTS_SHOWN])}."
            for entry in entries
        )

    def _read(self, subject: Subject) -> Reading:
        return read(subject.text, Lexicon.load(), Words.load())

    def _likeliest(
        self, candidates: list[Addition], text: str, template: Template, check: Check
    ) -> Addition:
        """The candidate whose details the model finds likeliest after the opening, by token.

        The style's phrases don't count, since a model would choose the same for every subject.
        """
        details = [
            ", ".join(phrase for phrase in each.phrases if phrase not in each.style)
            for each in candidates
        ]
        if not all(details):
            return candidates[0]
        prefix = self._decoder.prefix(few_shot_prefix(template), check)
        context = self._decoder.encode(" ".join(text.split()) + ",")[-CONTEXT_TOKENS:]
        scores = [
            float(log_probs.mean())
            for log_probs in self._decoder.log_probs(prefix, context, details)
        ]
        check()
        return candidates[scores.index(max(scores))]
