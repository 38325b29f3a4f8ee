"""The text side of prompt enhancement: what the user asks for, and what may be added to it.

A prompt is read into a `Subject`; a phrase, whether a language model wrote it or a template holds
it, is judged against the subject by word classes; and the result is put together here, the user's
words in one piece. Nothing here knows a model or torch.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from banatie.enhancement.templates import Details, Phrase, Slot, Template
from banatie.enhancement.vocabulary import LONGEST_TERM, WORD, Vocabulary, root, singular, words_of

TAG = re.compile(r"\s*<\w+:[^<>]+>\s*")
QUOTED = re.compile(r"\"[^\"]+\"|“[^”]+”|„[^“”]+[“”]|«[^»]+»|「[^」]+」|(?<!\w)'[^']+'(?!\w)")
MENTION = re.compile(r"(?<!\w)@[\w-]+")
CAMERA_NUMBERS = re.compile(
    r"\b\d{1,3}(?:-\d{2,3})? ?mm\b|\bf/\d{1,2}(?:\.\d)?\b|\b1/\d+\b|\bISO \d+"
)
COMMON_LENSES = re.compile(
    r"\b(?:14|16|20|24|28|35|40|50|55|70|85|90|100|105|135|150|180|200) ?mm\b"
    r"|\bf/\d{1,2}(?:\.\d)?\b"
)
SENTENCE_END = re.compile(r"[.!?…。！？]")

OTHER_STUFF = frozenset({"material", "food", "object", "render", "drawing"})
"""A word of these before a thing says that it is only the likeness of one."""
LIKENESS = frozenset({"shaped", "sized", "themed", "styled", "inspired", "patterned", "printed"})
ARTICLES = frozenset({"a", "an", "the", "one"})

REQUEST = re.compile(
    r"""^\s*(?:(?:hi|hello|hey|please)\b[\s,!.]*)*
    (?:(?:can|could|would|will)\s+you\s+(?:please\s+)?|(?:i\s+(?:want|need)|i['’]d\s+like|i\s+would\s+like)\s+(?:you\s+)?(?:to\s+(?:see\s+)?)?)?
    (?:(?:draw|paint|sketch|create|make|generate|show|give|design|render|produce|illustrate|depict|
    visuali[sz]e|imagine|see)\s+(?:(?:me|us)\s+)?(?=(?:an?|the|some|two|three|four|five|my|our|one|this|these)\s|["“]))?
    (?:(?:an?|the|some)\s+(?:\w+\s+)?(?:picture|image|pic)s?\s+(?:of|with|showing)\s+)?""",
    re.IGNORECASE | re.VERBOSE,
)
"""What people write before they say what they want to see."""
REQUEST_END = re.compile(r"(?:[\s,]+(?:please|thanks|thank you|for me))+[\s.!]*$", re.IGNORECASE)

PHRASES_WANTED = 4
PHRASES_WANTED_BY_DETAILED = 2
DETAILED_WORDS = 18
DETAILED_CLAUSES = 4
CLAUSE_WORDS = 9
SLOT_SPREAD = 4.0
FINISHED_WEIGHT = 8
"""What a stem that the model finished weighs beside phrases of the template: 1, or 3 with needs."""
ROOM_FOR_PHRASES = 15
"""Tokens that must be free behind the user's own words, or another chunk is begun."""
CHUNK_TOKENS = 75
"""What CLIP's text encoders read at once, without the two special tokens (arXiv:2103.00020)."""


@dataclass(frozen=True)
class Subject:
    """What the user asks for."""

    original: str
    text: str
    """The user's words without the request around them, untouched otherwise."""
    tags: tuple[str, ...]
    """`<lora:…>` and the like, taken out and put back behind everything."""
    words: frozenset[str]
    classes: frozenset[str]
    detailed: bool
    names_medium: bool

    @property
    def wanted(self) -> int:
        """How many phrases to add."""
        return PHRASES_WANTED_BY_DETAILED if self.detailed else PHRASES_WANTED


@dataclass(frozen=True)
class Judgement:
    """Whether a clause may stand; `reason` says why not."""

    reason: str | None

    @property
    def good(self) -> bool:
        """Whether nothing speaks against the clause."""
        return self.reason is None


def read(prompt: str, vocabulary: Vocabulary) -> Subject:
    """What a prompt asks for."""
    tags = tuple(tag.strip() for tag in TAG.findall(prompt))
    asked = TAG.sub(" ", prompt).strip() if tags else prompt.strip()
    text = REQUEST_END.sub("", REQUEST.sub("", asked, count=1)).strip()
    if asked.endswith("?") and text != asked:
        # What was asked is whether it can be drawn.
        text = text.rstrip("? ")
    if not WORD.search(text):
        text = asked
    content = vocabulary.content_words(text)
    classes = vocabulary.classes_of(_unquoted(text))
    for name in classes & vocabulary.hides.keys():
        classes -= vocabulary.hides[name]
    clauses = [part for part in re.split(r"[,;.\n]+", text) if WORD.search(part)]
    detailed = len(content) > DETAILED_WORDS or len(clauses) >= DETAILED_CLAUSES or len(text) > 200
    return Subject(
        prompt, text, tags, frozenset(content), classes, detailed, _names_medium(text, vocabulary)
    )


def opening(subject: Subject, template: Template, vocabulary: Vocabulary) -> str:
    """The template's medium and the user's words, in the form that reads best."""
    text = subject.text.rstrip().rstrip(",;").rstrip()
    if text.endswith(".") and len(SENTENCE_END.findall(text)) == 1:
        text = text[:-1]
    if subject.names_medium:
        manner_is_new = set(vocabulary.content_words(template.manner)) - subject.words
        return join_phrases(text, [template.manner]) if manner_is_new else text
    first, *_ = [*words_of(text), ""]
    if _is_sentence(text, vocabulary) or first in vocabulary.prepositions | vocabulary.foreign:
        return f"{template.medium}: {text}"
    if first in vocabulary.articles and text[:1].isupper():
        text = text[0].lower() + text[1:]
    return f"{template.medium} of {text}"


def showing(template: Template) -> str:
    """The worked examples as lines, put before the opening for a model that was not taught."""
    return "".join(f"{template.medium} of {e.subject}, {e.adds}.\n" for e in template.examples)


def heading(template: Template) -> str:
    """The line that a taught model has learned to read before the opening."""
    return f"{template.name.capitalize()} pictures:\n"


def join_phrases(text: str, phrases: Sequence[str]) -> str:
    """The text with the phrases behind it; after a sentence's end they begin a new one."""
    if not phrases:
        return text
    added = ", ".join(phrases)
    if SENTENCE_END.search(text[-1:]):
        return f"{text} {added[0].upper()}{added[1:]}"
    return f"{text}, {added}"


def split_clauses(text: str, vocabulary: Vocabulary) -> list[str]:
    """The clauses of a model's text up to its first sentence end.

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


def judge(
    clause: str,
    subject: Subject,
    taken: Iterable[str],
    vocabulary: Vocabulary,
    *,
    strict: bool = True,
) -> Judgement:
    """Whether a clause that a model wrote may be added to the subject and the `taken` phrases.

    `strict` is for models that drift: nothing may enter the picture that does not belong to it, at
    most half the words may be unknown, and each aspect is said once.
    """
    return Judgement(_objection(clause, subject, list(taken), vocabulary, strict))


def _objection(
    clause: str, subject: Subject, taken: list[str], vocabulary: Vocabulary, strict: bool
) -> str | None:
    words = words_of(clause)
    content = vocabulary.content_words(clause)
    if not content or len(words) > (CLAUSE_WORDS if strict else 2 * CLAUSE_WORDS):
        return "length"
    if not re.fullmatch(r"[A-Za-zÀ-ÿ0-9 ,'’/.-]+", clause):
        return "characters"
    if re.search(r"\d", (COMMON_LENSES if strict else CAMERA_NUMBERS).sub("", clause)):
        return "number"
    said = {" ".join(words[i : i + n]) for i in range(len(words)) for n in range(1, 6)}
    if said & vocabulary.talk or (strict and said & vocabulary.drift):
        return "talk"
    if words[-1] in vocabulary.dangling:
        return "unfinished"
    if len(content) != len(set(content)):
        return "stutter"
    known = subject.words.union(*(vocabulary.content_words(phrase) for phrase in taken))
    new = len({root(word) for word in content} - {root(word) for word in known})
    if 2 * new < len(content) + strict:
        return "repetition"
    terms = vocabulary.terms(clause)
    if clash := _clash(clause, subject, taken if strict else [], vocabulary, strict):
        return clash
    return _oddity(terms, subject, vocabulary) if strict else None


def _oddity(
    terms: list[tuple[str, frozenset[str]]], subject: Subject, vocabulary: Vocabulary
) -> str | None:
    """What makes a clause unfit to come from a model that drifts."""
    words = [term for term, _ in terms]
    content = [
        (term, classes, singular(term) in subject.words)
        for term, classes in terms
        if term not in vocabulary.function
    ]
    if len(content) < 2:
        return "thin"
    for start, word in enumerate(words):
        # The first noun, and each behind an indefinite article, would be one more in the picture.
        if start == 0 or word in {"a", "an", "one"}:
            phrase = words[start + (word in ARTICLES) :]
            named = list(takewhile(lambda word: word not in vocabulary.function, phrase))
            if named and singular(named[-1]) in subject.words:
                return "another one of the user's"
    for term, classes, users in content:
        bound = classes & vocabulary.belongs.keys()
        if users or "colour" in classes or not bound:
            continue
        if not any(vocabulary.belongs[name] & subject.classes for name in bound):
            return f"stranger: {term}"
    colours = sum("colour" in classes and not users for _, classes, users in content)
    if colours and "colour" in subject.classes:
        return "another colour"
    if colours and {"lit", "light"} & set(words) and "golden" not in words:
        return "coloured light"
    if colours < 2 and any("palette" in classes for _, classes, _ in content):
        return "no palette"
    if words[0] in {"a", "an", "one"} and singular(words[-1]) != words[-1]:
        return "number of the noun"
    last, last_classes, last_is_users = content[-1]
    unknown = sum(not classes and not users for _, classes, users in content)
    if 2 * unknown > len(content) or not (last_classes or last_is_users):
        return "unknown words"

    def describes(classes: frozenset[str]) -> bool:
        return "colour" in classes or (bool(classes) and classes <= vocabulary.adjectival)

    after_article = words[-1] == last and words[-2] in ARTICLES
    one_noun = words[0] in {"a", "an"} and not set(words[1:]) & {"of", "in", "with"}
    if describes(last_classes) and (after_article or one_noun):
        return "nothing described"
    if all(describes(classes) for _, classes, _ in content):
        return "nothing described"
    return None


def _clash(
    text: str, subject: Subject, taken: Sequence[str], vocabulary: Vocabulary, strict: bool = True
) -> str | None:
    """What in the user's words or the taken phrases speaks against a phrase."""
    classes = vocabulary.classes_of(text)
    for a, b in vocabulary.opposed + (vocabulary.unlikely if strict else ()):
        for one, other in ((a, b), (b, a)):
            if one in classes and other in subject.classes and one not in subject.classes:
                return f"{one} against {other}"
    present = subject.classes.union(*(vocabulary.classes_of(phrase) for phrase in taken))
    if again := classes & present & vocabulary.once:
        return f"{min(again)} again"
    return None


def invents(clause: str, vocabulary: Vocabulary) -> bool:
    """Whether a clause counts, joins words that nobody joins, or says more than a thing's look.

    Taught models like all three: `two small heads`, `midnight-rusted`, `folded pages on a tray`.
    """
    for word in re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)+", clause.lower()):
        parts = [part for part in word.split("-") if part not in vocabulary.function]
        colours = all("colour" in vocabulary.classes_of(part) for part in parts)
        if not colours and " ".join(word.split("-")) not in vocabulary.entries:
            return True
    terms = dict(vocabulary.terms(clause))
    known = all(found or term in vocabulary.function for term, found in terms.items())
    return not known or bool(terms.keys() & (vocabulary.counted | vocabulary.prepositions | {"of"}))


def suits(phrase: Phrase, subject: Subject) -> bool:
    """Whether the phrase's tags let it stand beside the user's words."""
    return (not phrase.needs or bool(phrase.needs & subject.classes)) and not (
        phrase.not_with & subject.classes
    )


def about(subject: Subject, details: Details, vocabulary: Vocabulary) -> tuple[str, ...]:
    """What is known of how the thing looks that the user's words begin with.

    Nothing where the word only tells what kind of thing comes next (`cat burglar`), what belongs to
    it (`dog's bowl`), or where the thing is only the likeness of one (`paper boat`).
    """
    found = list(WORD.finditer(_unquoted(subject.text)))
    words = [match[0].lower().replace("’", "'") for match in found]
    # Behind a preposition begin the surroundings.
    ahead = list(takewhile(lambda word: word not in vocabulary.prepositions, words))
    if "graphic" in subject.classes:
        return ()
    for start in range(len(ahead)):
        stuff = vocabulary.classes_of(words[start - 1]) if start else frozenset()
        for end in range(min(start + LONGEST_TERM, len(ahead)), start, -1):
            term = " ".join([*words[start : end - 1], singular(words[end - 1])])
            for kind, entries in details.items():
                likeness = stuff & OTHER_STUFF and kind not in {"things", "buildings"}
                if term in entries and not likeness and _ends_here(found, end, vocabulary):
                    return entries[term]
    return ()


def _ends_here(found: list[re.Match[str]], end: int, vocabulary: Vocabulary) -> bool:
    """Whether the words up to `end` name a thing, and not only what kind of thing comes next."""
    if found[end - 1][0].endswith(("'s", "’s")):
        return False
    if end == len(found):
        return True
    word = found[end][0].lower()
    if found[end].string[found[end - 1].end() : found[end].start()].strip():
        return True
    small = vocabulary.function | vocabulary.prepositions | vocabulary.finite | vocabulary.foreign
    classes = vocabulary.classes_of(word)
    acts = word.endswith(("ing", "ed")) and word not in LIKENESS
    return word in small or acts or bool(classes and classes <= vocabulary.adjectival)


def fitting_phrases(
    slot: Slot, subject: Subject, taken: Sequence[str], vocabulary: Vocabulary
) -> list[Phrase]:
    """The phrases of a slot that go with the user's words and with what is taken already."""
    known = subject.words.union(*(vocabulary.content_words(phrase) for phrase in taken))

    def fits(phrase: Phrase) -> bool:
        content = set(vocabulary.content_words(phrase.text))
        return (
            suits(phrase, subject)
            and 2 * len(content - known) > len(content)
            and _clash(phrase.text, subject, taken, vocabulary) is None
        )

    return [phrase for phrase in slot.phrases if fits(phrase)]


def fill(
    template: Template,
    subject: Subject,
    written: Sequence[str],
    finished: Mapping[str, str],
    vocabulary: Vocabulary,
    seed: int,
) -> tuple[list[str], list[str]]:
    """The phrases to add, and of these the ones from the template's slots.

    `written` is what the model continued with; `finished` what it made of slots' stems, by slot.
    Fills up to the number wanted: details of the subject, then a slot at a time, the
    template's most telling slots mostly first.
    """
    # A string seeds the same on every machine and in every process, unlike a tuple.
    rng = random.Random(f"{seed} {template.name} {subject.text}")
    phrases, from_slots = list(written), []
    known = tuple(map(Phrase, about(subject, template.details, vocabulary)))
    for _ in range(template.details_shown):
        fitting = fitting_phrases(Slot("details", known), subject, phrases, vocabulary)
        if fitting and len(phrases) < subject.wanted:
            phrases.append(rng.choice(fitting).text)
            from_slots.append(phrases[-1])
    # The first slots come first, as a rule: not all texts shall be of the same aspects.
    places = {
        slot.name: place + rng.uniform(0, SLOT_SPREAD) for place, slot in enumerate(template.slots)
    }
    for slot in sorted(template.slots, key=lambda slot: places[slot.name]):
        if len(phrases) >= subject.wanted:
            break
        fitting = fitting_phrases(slot, subject, phrases, vocabulary)
        # What was written for this kind of subject says more than what fits all.
        weights = [3 if phrase.needs else 1 for phrase in fitting]
        clause = finished.get(slot.name)
        if clause and judge(clause, subject, phrases, vocabulary).good:
            # The model says the same of many subjects, so its word is one among the others.
            fitting, weights = [Phrase(clause), *fitting], [FINISHED_WEIGHT, *weights]
        if fitting:
            phrases.append(rng.choices(fitting, weights)[0].text)
            if phrases[-1] != clause:
                from_slots.append(phrases[-1])
    return phrases, from_slots


def fit(text: str, phrases: Iterable[str], count_tokens: Callable[[str], int]) -> list[str]:
    """The phrases that fit behind the text into the encoders' chunks of 75 tokens."""
    chunks = -(-(count_tokens(text) + ROOM_FOR_PHRASES) // CHUNK_TOKENS)
    limit = max(chunks, 1) * CHUNK_TOKENS
    kept: list[str] = []
    for phrase in phrases:
        if count_tokens(join_phrases(text, [*kept, phrase])) <= limit:
            kept.append(phrase)
    return kept


def with_tags(text: str, subject: Subject) -> str:
    """The text with the tags that were taken out of the prompt."""
    return " ".join([text, *subject.tags])


def keeps(text: str, subject: Subject, vocabulary: Vocabulary) -> bool:
    """Whether a rewritten text says all that the user said, and does not talk."""
    verbatim = [*QUOTED.findall(subject.text), *MENTION.findall(subject.text)]
    verbatim += re.findall(r"\S*\d\S*", subject.text)
    verbatim += re.findall(r"(?<=\w )[A-Z]\w+", subject.text)
    here = set(vocabulary.content_words(text))
    talk = vocabulary.talk & set(words_of(text)) - set(words_of(subject.text))
    return subject.words <= here and not talk and all(part in text for part in verbatim)


def sentence_of(answer: str) -> str:
    """The one descriptive sentence in a model's free answer, without what models put around it."""
    answer = re.sub(r"<think>.*?(?:</think>|$)", "", answer, flags=re.DOTALL).strip()
    paragraphs = [part.strip() for part in answer.splitlines() if part.strip()]
    if len(paragraphs) > 1 and paragraphs[0].endswith(":"):
        paragraphs.pop(0)
    line = paragraphs[0] if paragraphs else ""
    line = re.sub(r"^(?:[-*•]|\d+[.)])\s+", "", line)
    preamble = (
        r"^(?:sure|certainly|of course|okay|ok|absolutely|here(?:'s| is| are))\b[^:!]{0,80}[:!]\s*"
    )
    line = re.sub(preamble, "", line, flags=re.IGNORECASE)
    line = re.sub(preamble, "", line, flags=re.IGNORECASE)
    line = re.sub(
        r"^\W*(?:enhanced |image |final )?(?:prompt|picture|description)\W*:\s*",
        "",
        line,
        flags=re.IGNORECASE,
    )
    line = line.strip("*_ ")
    if len(line) > 1 and line[0] in "\"“'" and line[-1] in "\"”'" and line.count('"') <= 2:
        line = line[1:-1]
    return line.strip().rstrip(".")


def _names_medium(text: str, vocabulary: Vocabulary) -> bool:
    """Whether the prompt says itself what it shall be: `a photo of …`, `… logo`, `… anime`."""
    first_clause = re.split(r"[,.;:]", _unquoted(text), maxsplit=1)[0]
    terms = vocabulary.terms(first_clause)
    for position, (_, classes) in enumerate(terms):
        following = terms[position + 1][0] if position + 1 < len(terms) else ""
        before = {term for term, _ in terms[:position]}
        leads = position < 3 or following in {"of", "for", "with", "showing", "in", ""}
        if "medium" in classes and leads and not before & vocabulary.prepositions:
            return True
    return "style" in vocabulary.classes_of(_unquoted(text))


def _unquoted(text: str) -> str:
    """The text without quotations and `@names`, which say nothing of what is to be seen."""
    return MENTION.sub("it", QUOTED.sub(" ", text))


def _is_sentence(text: str, vocabulary: Vocabulary) -> bool:
    outside_quotes = QUOTED.sub(" ", text)
    if re.search(r"[.!?。！？]\s+\S", outside_quotes) or "\n" in outside_quotes:
        return True
    if sum(not char.isascii() for char in outside_quotes) * 4 > len(outside_quotes):
        return True
    words = words_of(outside_quotes)
    return any(word in vocabulary.finite for word in words[:8])
