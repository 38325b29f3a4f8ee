"""The guided mode, for small models: the model continues the template's opening in several rows.

A stock model only completes the stems of the template's slots. A fine-tuned model continues freely
in many rows, of which the clauses stay that are specific to the subject (by pointwise mutual
information). The template adds the rest. Knows no device and no time limit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from banatie.enhancement.compose import Composition, TokenCounter, fit_to_chunks, select_phrases
from banatie.enhancement.decoding import Check, Continuation, Decoder, Prefix
from banatie.enhancement.prompt import Subject, join_phrases, opening, parse_prompt
from banatie.enhancement.rules import applies_to, hallucinates, rejection, split_clauses
from banatie.enhancement.sampling import rank_by_pmi
from banatie.enhancement.templates import Template
from banatie.enhancement.vocabulary import Vocabulary

MAX_TOKENS = 36
CONTEXT_TOKENS = 96
"""How much of the opening is read: its end, which the model continues."""
STOCK_TEMPERATURE = 0.6
ROWS_PER_STEM = 2
STEM_TOKENS = 10
FINE_TUNED_TEMPERATURE = 0.5
FINE_TUNED_ROWS = 12
"""On a CPU more rows cost next to nothing, more tokens do."""
FINE_TUNED_TOKENS = 18
FINE_TUNED_CLAUSES = 12
"""Generation ends with this many clauses to choose from."""
FINE_TUNED_PHRASES = 2
"""How many of the model's clauses are added at most; the template adds the rest."""


@dataclass
class StemRow(Continuation):
    """A row that completes a slot's stem."""

    slot: str = ""
    clause: str | None = None
    """The completed clause, if it passed the rules."""


@dataclass
class ClauseRow(Continuation):
    """A row of a fine-tuned model's clauses."""

    checked: int = 0
    """How many of its clauses were already judged."""


class GuidedMode:
    """Writes enhanced texts with a small model; one prompt at a time."""

    def __init__(self, decoder: Decoder, vocabulary: Vocabulary, fine_tuned: bool) -> None:
        self._decoder = decoder
        self._vocabulary = vocabulary
        self._fine_tuned = fine_tuned
        banned = vocabulary.commentary | vocabulary.off_topic
        if fine_tuned:
            banned |= vocabulary.quantities
        self._mask = decoder.token_mask(banned)

    def write(
        self,
        subject: Subject,
        template: Template,
        seed: int,
        count_tokens: TokenCounter,
        check: Check,
    ) -> Composition:
        """Compose the enhanced text of a subject; `check` is called between tokens.

        Raises GenerationFailed when the model gives no usable numbers.
        """
        written: list[str] = []
        completions: dict[str, str] = {}
        if self._fine_tuned:
            written = self._specific_clauses(subject, template, seed, check)
        else:
            completions = self._complete_stems(subject, template, seed, check)
        text = opening(subject, template, self._vocabulary)
        phrases, from_slots = select_phrases(
            template, subject, written, completions, self._vocabulary, seed
        )
        kept = fit_to_chunks(text, phrases, count_tokens)
        return Composition(
            join_phrases(text, kept),
            from_model=tuple(phrase for phrase in kept if phrase not in from_slots),
            from_slots=tuple(phrase for phrase in kept if phrase in from_slots),
        )

    def _complete_stems(
        self, subject: Subject, template: Template, seed: int, check: Check
    ) -> dict[str, str]:
        """A stock model's completions of the slots' stems, by slot."""
        rows: list[StemRow] = []
        for slot in template.slots:
            if slot.stem and applies_to(slot.stem, subject):
                stem = self._decoder.encode(f" {slot.stem.text}")
                rows += [StemRow(list(stem), slot=slot.name) for _ in range(ROWS_PER_STEM)]
        if not rows:
            return {}
        prefix = self._decoder.prefix(few_shot_prefix(template), check)
        copied = {clause for example in template.examples for clause in self._split(example.adds)}
        for row in self._decoder.extend(
            rows,
            prefix,
            self._context(subject, template),
            seed=seed,
            temperature=STOCK_TEMPERATURE,
            mask=self._mask,
            max_tokens=MAX_TOKENS,
            check=check,
        ):
            self._end_stem(row, subject, copied)
        return {row.slot: row.clause for row in reversed(rows) if row.clause}

    def _end_stem(self, row: StemRow, subject: Subject, copied: set[str]) -> None:
        """Finish a row whose last token completed its clause."""
        text = self._decoder.decode(row.tokens)
        # A full stop after a digit may be that of an aperture: f/1.8.
        over = row.tokens[-1] in self._decoder.ends or bool(re.search(r"\n$|[^\d]\.$", text))
        over = over or len(row.tokens) >= STEM_TOKENS
        if not over and not text.endswith(","):
            return
        clauses = self._split(text)
        if not over and len(clauses) == 1 and "palette" in self._vocabulary.classes_of(text):
            # The list of colours may go on.
            return
        row.done = True
        if clauses and self._passes(clauses[0], subject) and clauses[0] not in copied:
            row.clause = clauses[0]

    def _specific_clauses(
        self, subject: Subject, template: Template, seed: int, check: Check
    ) -> list[str]:
        """A fine-tuned model's clauses that are most specific to the subject."""
        prefix = self._decoder.prefix(fine_tuned_prefix(template), check)
        # A dictionary keeps the order, unlike a set.
        found: dict[str, None] = {}
        for row in self._decoder.extend(
            [ClauseRow() for _ in range(FINE_TUNED_ROWS)],
            prefix,
            self._context(subject, template),
            seed=seed,
            temperature=FINE_TUNED_TEMPERATURE,
            mask=self._mask,
            max_tokens=MAX_TOKENS,
            check=check,
        ):
            text = self._decoder.decode(row.tokens)
            row.done = row.tokens[-1] in self._decoder.ends or text.endswith("\n")
            if not row.done and not text.endswith(","):
                continue
            for clause in self._split(text)[row.checked :]:
                row.checked += 1
                if self._passes(clause, subject) and not hallucinates(clause, self._vocabulary):
                    found[clause] = None
            if len(found) >= FINE_TUNED_CLAUSES or len(row.tokens) >= FINE_TUNED_TOKENS:
                break
        check()
        return self._rank(list(found), prefix, subject, template) if found else []

    def _rank(
        self, clauses: list[str], prefix: Prefix, subject: Subject, template: Template
    ) -> list[str]:
        neutral = parse_prompt("something", self._vocabulary)
        given_subject, given_anything = (
            self._decoder.log_probs(prefix, self._context(each, template), clauses)
            for each in (subject, neutral)
        )
        best: list[str] = []
        for clause in rank_by_pmi(clauses, given_subject, given_anything):
            if self._passes(clause, subject, best):
                best.append(clause)
        return best[:FINE_TUNED_PHRASES]

    def _context(self, subject: Subject, template: Template) -> list[int]:
        """The tokens of the opening, which the model continues."""
        text = opening(subject, template, self._vocabulary)
        return self._decoder.encode(" ".join(text.split()) + ",")[-CONTEXT_TOKENS:]

    def _passes(self, clause: str, subject: Subject, chosen: Sequence[str] = ()) -> bool:
        return rejection(clause, subject, chosen, self._vocabulary) is None

    def _split(self, text: str) -> list[str]:
        return split_clauses(text, self._vocabulary)


def few_shot_prefix(template: Template) -> str:
    """The template's examples as lines, which a stock model reads before the opening."""
    return "".join(f"{template.medium} of {e.subject}, {e.adds}.\n" for e in template.examples)


def fine_tuned_prefix(template: Template) -> str:
    """The line that a fine-tuned model was trained to read before the opening."""
    return f"{template.name.capitalize()} pictures:\n"
