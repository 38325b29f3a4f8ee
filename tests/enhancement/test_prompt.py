"""Reading a prompt: the request around it, tags, and the opening."""

from __future__ import annotations

import pytest

from banatie.enhancement.prompt import join_phrases, opening, parse_prompt
from banatie.enhancement.templates import Template, load_templates
from banatie.enhancement.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.load()


@pytest.fixture(scope="module")
def templates() -> dict[str, Template]:
    return dict(load_templates())


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("draw me a cat", "a cat"),
        ("Please draw a cat, please", "a cat"),
        ("Can you create an image of two foxes?", "two foxes"),
        ("where is the fox?", "where is the fox?"),
        ("I want a picture of my dog Rex", "my dog Rex"),
        ("design a logo for a bakery", "a logo for a bakery"),
        ("a photo of a cat", "a photo of a cat"),
        ("paint brush on a table", "paint brush on a table"),
        ("show jumping horse", "show jumping horse"),
        ("draw", "draw"),
        ("  a cat <lora:fur:0.8> ", "a cat"),
    ],
)
def test_the_request_around_the_subject_goes_and_the_subject_stays(
    prompt: str, text: str, vocabulary: Vocabulary
) -> None:
    assert parse_prompt(prompt, vocabulary).text == text


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red car", "A photorealistic photo of a red car"),
        ("A red car.", "A photorealistic photo of a red car"),
        ("Marie Curie", "A photorealistic photo of Marie Curie"),
        ("three cats,", "A photorealistic photo of three cats"),
        ('"HELLO" on a wall', 'A photorealistic photo of "HELLO" on a wall'),
        ("a photo of a cat", "a photo of a cat, photorealistic"),
        ("photorealistic cat portrait", "photorealistic cat portrait"),
        ("@logo on a mug", "A photorealistic photo of @logo on a mug"),
        ("under the sea", "A photorealistic photo: under the sea"),
        ("The cat sleeps. It rains.", "A photorealistic photo: The cat sleeps. It rains."),
        ("un chat noir", "A photorealistic photo: un chat noir"),
        ("夜の森", "A photorealistic photo: 夜の森"),
    ],
)
def test_the_opening_reads_naturally(
    prompt: str, expected: str, vocabulary: Vocabulary, templates: dict[str, Template]
) -> None:
    subject = parse_prompt(prompt, vocabulary)
    assert opening(subject, templates["photorealistic"], vocabulary) == expected


def test_a_detailed_prompt_gets_little(vocabulary: Vocabulary) -> None:
    detailed = parse_prompt("a dog, soft light, 85mm lens, blurred background", vocabulary)
    assert detailed.detailed
    assert detailed.phrases_to_add < parse_prompt("a dog", vocabulary).phrases_to_add


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("a cat", "a cat, soft fur, warm light"),
        ("Is it a cat?", "Is it a cat? Soft fur, warm light"),
    ],
)
def test_phrases_join_with_commas_or_begin_anew(text: str, joined: str) -> None:
    assert join_phrases(text, ["soft fur", "warm light"]) == joined
    assert join_phrases(text, []) == text


def test_tags_are_no_words(vocabulary: Vocabulary) -> None:
    subject = parse_prompt("draw a cat <lora:fur:0.8>, on a sofa", vocabulary)
    assert subject.text == "a cat, on a sofa"
    assert "fur" not in subject.words
