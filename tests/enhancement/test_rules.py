"""Which clauses are accepted, and why the others are rejected."""

from __future__ import annotations

import pytest

from banatie.enhancement.prompt import parse_prompt
from banatie.enhancement.rules import hallucinates, preserves_prompt, rejection, split_clauses
from banatie.enhancement.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.load()


@pytest.mark.parametrize(
    "clause",
    [
        "lit by moonlight",
        "fine detail in the walls",
        "deep blue shadows",
        "wet cobblestones",
        "35mm lens",
        "colours of navy, grey and silver",
    ],
)
def test_a_visual_clause_is_accepted(clause: str, vocabulary: Vocabulary) -> None:
    subject = parse_prompt("a castle at night", vocabulary)
    assert rejection(clause, subject, [], vocabulary) is None


@pytest.mark.parametrize(
    ("clause", "reason"),
    [
        ("I'm going to take you there", "banned word"),
        ("it is a testament to beauty", "banned word"),
        ("this image was edited", "banned word"),
        ("golden hour sunlight", "daylight contradicts night"),
        ("a young woman beside the gate", "unrelated: woman"),
        ("a castle at night", "repetition"),
        ("stone stone walls", "repeated word"),
        ("450 metres of walls", "number"),
        ("walls of the", "unfinished"),
        ("walls around a large castle", "another instance of the subject"),
        ("deep dark", "nothing described"),
        ("a blue and gold", "nothing described"),
        ("fine detail in the dark", "nothing described"),
        ("castle with deep shadows", "another instance of the subject"),
        ("shadows", "too few words"),
        ("zorbing quux walls flarn", "unknown words"),
        ("stickers “sold” here", "characters"),
        ("soft pale light falling over the old walls and gates", "length"),
        ("colours of red", "no palette"),
    ],
)
def test_a_clause_that_describes_no_picture_is_rejected(
    clause: str, reason: str, vocabulary: Vocabulary
) -> None:
    subject = parse_prompt("a castle at night", vocabulary)
    assert rejection(clause, subject, [], vocabulary) == reason


def test_an_aspect_is_mentioned_once(vocabulary: Vocabulary) -> None:
    subject = parse_prompt("a castle in soft moonlight", vocabulary)
    assert rejection("lit by lanterns", subject, [], vocabulary) == "light repeated"
    plain = parse_prompt("a castle at night", vocabulary)
    taken = ["lit by moonlight"]
    assert rejection("warm lantern light", plain, taken, vocabulary) == "light repeated"


def test_a_larger_model_may_add_things_but_no_commentary(vocabulary: Vocabulary) -> None:
    subject = parse_prompt("a castle at night", vocabulary)

    def lax(clause: str) -> bool:
        return rejection(clause, subject, [], vocabulary, strict=False) is None

    assert lax("two ravens circling the highest tower")
    assert lax("f/2.8 at ISO 3200")
    assert not lax("bright golden hour sunlight")
    assert not lax("it reminds you of home")


@pytest.mark.parametrize(
    ("clause", "invented"),
    [
        ("weathered stone walls", False),
        ("blue-green water", False),
        ("black-and-white stripes", False),
        ("half-closed eyes", False),
        ("midnight-rusted walls", True),
        ("two stone walls", True),
        ("a single window", True),
        ("stone walls with a window", True),
        ("flarned walls", True),
    ],
)
def test_inventions_of_fine_tuned_models_are_recognised(
    clause: str, invented: bool, vocabulary: Vocabulary
) -> None:
    assert hallucinates(clause, vocabulary) is invented


def test_a_list_of_colours_is_one_clause(vocabulary: Vocabulary) -> None:
    text = " soft fur, colours of teal, cream and rust, and deep shadows. And then it"
    assert split_clauses(text, vocabulary) == [
        "soft fur",
        "colours of teal, cream and rust",
        "deep shadows",
    ]


@pytest.mark.parametrize(
    ("rewritten", "kept"),
    [
        ('A photo of Mia eating 3 red apples under a "SALE" sign', True),
        ('A photo of Mia eating red apples under a "SALE" sign', False),
        ("A photo of Mia eating 3 red apples under a SALE sign", False),
        ('A photo of a girl eating 3 red apples under a "SALE" sign', False),
        ('I see Mia eating 3 red apples under a "SALE" sign', False),
    ],
)
def test_a_rewritten_text_must_say_all_that_was_asked(
    rewritten: str, kept: bool, vocabulary: Vocabulary
) -> None:
    subject = parse_prompt('Mia eating 3 red apples under a "SALE" sign', vocabulary)
    assert preserves_prompt(rewritten, subject, vocabulary) is kept
