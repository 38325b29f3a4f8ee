"""Cutting a prompt into noun groups: `a small cat` · on `a red sofa` · without `people`.

A group is what stands between prepositions, verbs, conjunctions and punctuation. Only the grammar
is judged here; what a group means is told in `english`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from banatie.enhancement.lexicon.entries import LONGEST_NAME, Lexicon
from banatie.enhancement.lexicon.words import LONGEST_PHRASE, Words

TOKEN = re.compile(
    r"(?P<camera>\b\d{2,3} ?mm\b|\bf/\d+(?:\.\d)?)"
    r"|(?P<word>@?[^\W_]+(?:['’\-‑][^\W_]+)*)|(?P<stop>[^\w\s])",
    re.IGNORECASE,
)
LEADS = (
    "likeness_phrase",
    "simile",
    "negation",
    "preposition",
    "beside",
    "neutral_preposition",
    "conjunction",
    "auxiliary",
    "pronoun",
)
"""The classes of words that end a group and say what part the next one plays."""
ENDS = frozenset({*LEADS, "stop", "determiner", "number"})
"""The classes of words before which no group goes on."""


@dataclass(frozen=True)
class Token:
    """A word, or several that form one name or one phrase."""

    text: str
    """In lower case."""
    written: str
    classes: frozenset[str]
    noun: bool
    """Whether it is a name in the lexicon."""


@dataclass
class Chunk:
    """A noun group with the word before it."""

    lead: str
    """The class of the word before: a class of LEADS, `verb`, `of`, `stop`, or empty."""
    word: str
    """That word."""
    clause: int
    """How many commas and full stops stand before it."""
    determined: bool = False
    """Whether an article, a number or a possessive stands before it."""
    single: bool = False
    """Whether that article is `a` or `an`."""
    possessed: bool = False
    """Whether it belongs to somebody: `the dog's bowl`."""
    number: str = ""
    after: str = ""
    """The verb right before that word: `howling at`."""
    before_of: bool = False
    tokens: list[Token] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    """The participles before the noun: `a sleeping cat`."""


@dataclass
class Cut:
    """The groups of a prompt in order, with the verbs and camera words between them."""

    chunks: list[Chunk]
    actions: list[str]
    camera: list[str]


def tokenize(text: str, lexicon: Lexicon, words: Words) -> list[Token]:
    """The tokens of a text; the longest names and phrases are one token each."""
    found = [(m.lastgroup, m[0]) for m in TOKEN.finditer(text)]
    tokens: list[Token] = []
    position = 0
    while position < len(found):
        kind, written = found[position]
        length = 1
        lower = written.lower().replace("’", "'").replace("‑", "-")
        if kind == "stop":
            tokens.append(Token(lower, written, frozenset({"stop"}), False))
        elif kind == "camera":
            tokens.append(Token(lower, written, frozenset({"camera"}), False))
        else:
            for length in range(
                min(max(LONGEST_NAME, LONGEST_PHRASE), len(found) - position), 0, -1
            ):
                part = found[position : position + length]
                if any(each != "word" for each, _ in part):
                    continue
                lower = " ".join(each for _, each in part).lower().replace("’", "'")
                lower = lower.replace("‑", "-")
                noun = lexicon.find(lower) is not None
                if noun or words.of(lower) or length == 1:
                    written = " ".join(each for _, each in part)
                    tokens.append(Token(lower, written, words.of(lower), noun))
                    break
        position += length
    return tokens


class Chunker:
    """Cuts tokens into groups."""

    def __init__(self, tokens: list[Token], words: Words) -> None:
        self._tokens = tokens
        self._words = words
        self._clause = 0
        self._cut = Cut([], [], [])
        self._current = Chunk("", "", 0)

    def cut(self) -> Cut:
        """The groups of the tokens."""
        for position, token in enumerate(self._tokens):
            following = self._tokens[position + 1] if position + 1 < len(self._tokens) else None
            self._take(token, following)
        self._begin("", "")
        return self._cut

    def _begin(self, lead: str, word: str) -> None:
        before = self._current
        before.before_of = lead == "of"
        if before.tokens or before.actions:
            self._cut.chunks.append(before)
            before = Chunk("", "", 0)
        after = before.word if before.lead == "verb" else ""
        self._current = Chunk(lead, word, self._clause, after=after)

    def _take(self, token: Token, following: Token | None) -> None:
        classes, chunk = token.classes, self._current
        if "stop" in classes:
            if token.text != "-":
                self._clause += 1
            self._begin("stop", token.text)
        elif "camera" in classes and not token.noun:
            self._cut.camera.append(token.text)
        elif token.text == "of":
            self._begin("of", "of")
        elif token.noun and len(token.text.split()) > 1:
            chunk.tokens.append(token)
        elif lead := next((name for name in LEADS if name in classes), ""):
            both = lead == "negation" and chunk.lead in ("beside", "conjunction")
            self._begin("negation" if both else lead, token.text)
        elif classes & {"determiner", "number"} or token.text.isdecimal():
            self._determine(token)
        elif token.text.endswith("'s") and not token.noun:
            chunk.tokens, chunk.actions, chunk.possessed = [], [], True
        elif self._is_verb(token, following):
            self._cut.actions.append(token.text)
            self._begin("verb", token.text)
        elif self._is_adverb(token):
            return
        else:
            if self._words.is_participle(token.text, "ing") and not token.noun and not classes:
                chunk.actions.append(token.text)
            chunk.tokens.append(token)

    def _determine(self, token: Token) -> None:
        chunk = self._current
        if chunk.tokens:
            # Two groups stand side by side: `the day the sea froze`.
            self._begin("stop", "")
            chunk = self._current
        chunk.determined = True
        chunk.single = token.text in ("a", "an")
        if "number" in token.classes or token.text.isdecimal():
            chunk.number = token.text

    def _is_verb(self, token: Token, following: Token | None) -> bool:
        chunk, text, words = self._current, token.text, self._words
        ends = following is None or bool(following.classes & ENDS)
        after_noun = bool(chunk.tokens) and chunk.tokens[-1].noun
        gerund = text.endswith("ing") and text in words.by_class["other_nouns"]
        uncertain = gerund or text in words.by_class["verb_base"]
        if after_noun and uncertain and following is not None and ends:
            # `children play in the park`, but `a lion dance in the park`.
            return "stop" not in following.classes and (gerund or not self._is_compound(text))
        if token.noun or uncertain or token.classes - {"quality", "mood", "age", "size"}:
            return (
                after_noun
                and text in words.by_class["verb_bare"]
                and not (ends and self._is_compound(text))
            )
        if after_noun and text in words.verb_forms | words.by_class["verb_bare"]:
            return True
        named = any(each.noun or not each.classes for each in chunk.tokens)
        if words.is_participle(text, "ing"):
            if chunk.lead == "auxiliary" and not chunk.determined:
                return True
            # `a car charging sign` is one thing; of an unknown verb only the end is certain.
            return ends or (not named and not chunk.determined and chunk.lead not in ("", "of"))
        past = words.is_participle(text, "ed") or text in words.by_class["verb_past"]
        return past and (named or chunk.lead == "auxiliary")

    def _is_compound(self, verb: str) -> bool:
        """Whether what looks like a verb after one thing is the noun that it belongs to."""
        before = self._current.tokens[-1].text
        if before.endswith("s") or before in self._words.by_class["plural"]:
            return False
        return self._current.single or verb in self._words.by_class["verb_noun"]

    def _is_adverb(self, token: Token) -> bool:
        text = token.text
        return (
            not token.noun
            and not token.classes
            and not token.written[:1].isupper()
            and (
                (text.endswith("ly") and not text.endswith("fly") and len(text) > 4)
                or text in {"very", "really", "so", "too"}
            )
        )
