"""The rules for clauses: splitting a model's text, and judging whether a clause may be added.

A clause is compared with the subject and with the phrases already chosen, by word classes. Knows no
model and no torch, and does not choose among the clauses that pass.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

from banatie.enhancement.prompt import MENTION, QUOTED, Subject
from banatie.enhancement.templates import Phrase
from banatie.enhancement.vocabulary import Vocabulary, singular, word_stem, words_of

MAX_CLAUSE_WORDS = 9
CAMERA_NUMBERS = re.compile(
    r"\b\d{1,3}(?:-\d{2,3})? ?mm\b|\bf/\d{1,2}(?:\.\d)?\b|\b1/\d+\b|\bISO \d+"
)
COMMON_LENSES = re.compile(
    r"\b(?:14|16|20|24|28|35|40|50|55|70|85|90|100|105|135|150|180|200) ?mm\b"
    r"|\bf/\d{1,2}(?:\.\d)?\b"
)
ARTICLES = frozenset({"a", "an", "the", "one"})
Terms = list[tuple[str, frozenset[str]]]
"""As `Vocabulary.terms` returns them."""


def split_clauses(text: str, vocabulary: Vocabulary) -> list[str]:
    """The clauses of a model's text up to the end of its first sentence.

    A list of colours stays together: `colours of teal, cream and rust` is one clause.
    """
    text = re.split(r"(?<=[^\W\d])[.!?](?:\s|$)|\n", text.strip(), maxsplit=1)[0]
    parts = (re.sub(r"^\s*and\s+", "", part).strip(" .!?") for part in re.split(r"[,;]", text))
    clauses: list[str] = []
    for part in filter(None, parts):
        only_colours = all(
            "colour" in vocabulary.classes_of(w) for w in vocabulary.content_words(part)
        )
        if clauses and only_colours and "palette" in vocabulary.classes_of(clauses[-1]):
            clauses[-1] += f", {part}"
        else:
            clauses.append(part)
    return clauses


def rejection(
    clause: str,
    subject: Subject,
    chosen: Sequence[str],
    vocabulary: Vocabulary,
    *,
    strict: bool = True,
) -> str | None:
    """Why a model's clause may not be added to the subject and the chosen phrases; None if it may.

    `strict` is for small models: nothing may be added to the picture that the subject does not
    call for, at most half of the words may be unknown, and each aspect is mentioned once.
    """
    words = words_of(clause)
    content = vocabulary.content_words(clause)
    if not content or len(words) > (MAX_CLAUSE_WORDS if strict else 2 * MAX_CLAUSE_WORDS):
        return "length"
    if not re.fullmatch(r"[A-Za-zÀ-ÿ0-9 ,'’/.-]+", clause):
        return "characters"
    if re.search(r"\d", (COMMON_LENSES if strict else CAMERA_NUMBERS).sub("", clause)):
        return "number"
    ngrams = {" ".join(words[i : i + n]) for i in range(len(words)) for n in range(1, 6)}
    if ngrams & vocabulary.commentary or (strict and ngrams & vocabulary.off_topic):
        return "banned word"
    if words[-1] in vocabulary.unfinished_endings:
        return "unfinished"
    if len(content) != len(set(content)):
        return "repeated word"
    known = subject.words.union(*(vocabulary.content_words(phrase) for phrase in chosen))
    new = len({word_stem(word) for word in content} - {word_stem(word) for word in known})
    if 2 * new < len(content) + strict:
        return "repetition"
    if found := contradiction(clause, subject, chosen if strict else [], vocabulary, strict=strict):
        return found
    return _strict_rejection(vocabulary.terms(clause), subject, vocabulary) if strict else None


def _strict_rejection(terms: Terms, subject: Subject, vocabulary: Vocabulary) -> str | None:
    """Why a small model's clause may not be added, beyond what every model's is checked for."""
    words = [term for term, _ in terms]
    content = [
        (term, classes, singular(term) in subject.words)
        for term, classes in terms
        if term not in vocabulary.function_words
    ]
    if len(content) < 2:
        return "too few words"
    if _repeats_subject(words, subject, vocabulary):
        return "another instance of the subject"
    for term, classes, from_user in content:
        requiring = classes & vocabulary.requires.keys()
        if from_user or "colour" in classes or not requiring:
            continue
        if not any(vocabulary.requires[name] & subject.classes for name in requiring):
            return f"unrelated: {term}"
    colours = sum("colour" in classes and not from_user for _, classes, from_user in content)
    if colours and "colour" in subject.classes:
        return "another colour"
    if colours and {"lit", "light"} & set(words) and "golden" not in words:
        return "coloured light"
    if colours < 2 and any("palette" in classes for _, classes, _ in content):
        return "no palette"
    if words[0] in {"a", "an", "one"} and singular(words[-1]) != words[-1]:
        return "number agreement"
    _, last_classes, last_from_user = content[-1]
    unknown = sum(not classes and not from_user for _, classes, from_user in content)
    if 2 * unknown > len(content) or not (last_classes or last_from_user):
        return "unknown words"
    if _lacks_noun(words, [(term, classes) for term, classes, _ in content], vocabulary):
        return "nothing described"
    return None


def _repeats_subject(words: list[str], subject: Subject, vocabulary: Vocabulary) -> bool:
    """Whether a clause would add another instance of something that the user named.

    Its first noun, and each noun after an indefinite article, would appear in the picture again.
    """
    for start, word in enumerate(words):
        if start == 0 or word in {"a", "an", "one"}:
            phrase = words[start + (word in ARTICLES) :]
            named = list(takewhile(lambda word: word not in vocabulary.function_words, phrase))
            if named and singular(named[-1]) in subject.words:
                return True
    return False


def _lacks_noun(words: list[str], content: Terms, vocabulary: Vocabulary) -> bool:
    """Whether a clause describes nothing: `a blue and gold`, `deep dark`."""

    def is_adjectival(classes: frozenset[str]) -> bool:
        return "colour" in classes or (bool(classes) and classes <= vocabulary.adjectival)

    last, last_classes = content[-1]
    after_article = words[-1] == last and words[-2] in ARTICLES
    one_noun = words[0] in {"a", "an"} and not set(words[1:]) & {"of", "in", "with"}
    if is_adjectival(last_classes) and (after_article or one_noun):
        return True
    return all(is_adjectival(classes) for _, classes in content)


def contradiction(
    text: str,
    subject: Subject,
    chosen: Sequence[str],
    vocabulary: Vocabulary,
    *,
    strict: bool = True,
) -> str | None:
    """How a phrase contradicts the subject or repeats an aspect of a chosen phrase, if it does."""
    classes = vocabulary.classes_of(text)
    for a, b in vocabulary.contradictions + (vocabulary.strict_contradictions if strict else ()):
        for one, other in ((a, b), (b, a)):
            if one in classes and other in subject.classes and one not in subject.classes:
                return f"{one} contradicts {other}"
    present = subject.classes.union(*(vocabulary.classes_of(phrase) for phrase in chosen))
    if repeated := classes & present & vocabulary.at_most_once:
        return f"{min(repeated)} repeated"
    return None


def hallucinates(clause: str, vocabulary: Vocabulary) -> bool:
    """Whether a clause invents: a number, a compound, an unknown word, or a relation.

    Fine-tuned models tend to: `two small heads`, `midnight-rusted`, `folded pages on a tray`.
    """
    for compound in re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)+", clause.lower()):
        parts = [part for part in compound.split("-") if part not in vocabulary.function_words]
        colours = all("colour" in vocabulary.classes_of(part) for part in parts)
        if not colours and " ".join(compound.split("-")) not in vocabulary.entries:
            return True
    terms = dict(vocabulary.terms(clause))
    known = all(found or term in vocabulary.function_words for term, found in terms.items())
    relations = vocabulary.quantities | vocabulary.prepositions | {"of"}
    return not known or bool(terms.keys() & relations)


def applies_to(phrase: Phrase, subject: Subject) -> bool:
    """Whether the word classes that a phrase requires and excludes allow it for a subject."""
    return (not phrase.needs or bool(phrase.needs & subject.classes)) and not (
        phrase.not_with & subject.classes
    )


def preserves_prompt(text: str, subject: Subject, vocabulary: Vocabulary) -> bool:
    """Whether a rewritten text keeps everything that the user said, and adds no commentary."""
    verbatim = [*QUOTED.findall(subject.text), *MENTION.findall(subject.text)]
    verbatim += re.findall(r"\S*\d\S*", subject.text)
    verbatim += re.findall(r"(?<=\w )[A-Z]\w+", subject.text)
    present = set(vocabulary.content_words(text))
    commentary = vocabulary.commentary & set(words_of(text)) - set(words_of(subject.text))
    return subject.words <= present and not commentary and all(part in text for part in verbatim)
