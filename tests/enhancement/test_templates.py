"""The templates as data: all seven load, each differs, and every class that they name exists."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import pytest

from banatie.enhancement.compose import fitting_phrases
from banatie.enhancement.prompt import parse_prompt
from banatie.enhancement.rules import rejection
from banatie.enhancement.templates import (
    Phrase,
    Slot,
    Template,
    load_few_shot_examples,
    load_templates,
)
from banatie.enhancement.vocabulary import Vocabulary
from banatie.records import TEMPLATE_NAMES


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.load()


@pytest.fixture(scope="module", params=TEMPLATE_NAMES)
def template(request: pytest.FixtureRequest) -> Template:
    return load_templates()[request.param]


def test_there_are_the_seven_of_the_api() -> None:
    assert tuple(load_templates()) == (
        "general",
        "photorealistic",
        "illustration",
        "minimalist",
        "sticker",
        "product",
        "comic",
    )


def test_a_template_says_what_it_is_for_and_shows_it(template: Template) -> None:
    assert template.title
    assert len(template.summary) > 15
    assert len(template.instruction) > 100
    assert "\n" not in template.instruction
    assert 2 <= len(template.examples) <= 4


def test_an_example_adds_three_phrases_or_more_and_no_commentary(
    template: Template, vocabulary: Vocabulary
) -> None:
    for example in template.examples:
        phrases = example.adds.split(", ")
        assert len(phrases) >= 3, example
        subject = parse_prompt(example.subject, vocabulary)
        for phrase in phrases:
            reason = rejection(phrase, subject, [], vocabulary, strict=False)
            assert reason != "banned word", phrase


def test_every_tag_is_a_known_class(template: Template, vocabulary: Vocabulary) -> None:
    for slot in template.slots:
        for phrase in (*slot.phrases, *([slot.stem] if slot.stem else [])):
            assert phrase.needs | phrase.not_with <= vocabulary.classes, phrase


def test_a_slot_offers_a_choice_and_no_phrase_twice(template: Template) -> None:
    phrases = [phrase.text for slot in template.slots for phrase in slot.phrases]
    assert len(phrases) == len(set(phrases))
    assert len({slot.name for slot in template.slots}) == len(template.slots) >= 5
    assert min(len(slot.phrases) for slot in template.slots) >= 3


def test_no_two_templates_open_alike_or_share_phrases() -> None:
    templates = load_templates().values()
    assert len({t.medium for t in templates}) == len({t.manner for t in templates}) == 7
    for one, other in combinations(templates, 2):
        phrases = [{p.text for s in t.slots for p in s.phrases} for t in (one, other)]
        assert len(phrases[0] & phrases[1]) <= 1, (one.name, other.name)


def test_a_detail_fits_its_subject(vocabulary: Vocabulary) -> None:
    words: list[str] = []
    for entries in load_templates()["general"].details.values():
        words += entries
        for word, phrases in entries.items():
            subject = parse_prompt(f"a {word}", vocabulary)
            assert len(phrases) == len(set(phrases)) >= 3, word
            for phrase in phrases:
                assert rejection(phrase, subject, [], vocabulary, strict=False) is None, phrase
            slot = Slot("details", tuple(map(Phrase, phrases)))
            assert len(fitting_phrases(slot, subject, [], vocabulary)) >= 3, word
    assert len(words) == len(set(words))


def test_few_shot_examples_leave_out_the_held_out_ones() -> None:
    loaded = load_few_shot_examples()
    assert tuple(loaded) == TEMPLATE_NAMES
    for examples in loaded.values():
        assert len(examples) == 85
        assert all(example.prompt and not example.answer.endswith(".") for example in examples)


def test_the_rules_name_known_classes(vocabulary: Vocabulary) -> None:
    pairs = (*vocabulary.contradictions, *vocabulary.strict_contradictions)
    named = {name for pair in pairs for name in pair}
    named |= vocabulary.at_most_once | vocabulary.adjectival
    for rules in (vocabulary.requires, vocabulary.suppresses):
        named |= rules.keys() | frozenset().union(*rules.values())
    assert named <= vocabulary.classes, named - vocabulary.classes


def test_everything_but_the_models_loads_without_torch() -> None:
    program = (
        "import sys; from banatie.enhancement import compose, templates, vocabulary; "
        "templates.load_templates(); vocabulary.Vocabulary.load(); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
