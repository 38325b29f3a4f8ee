"""What the lexicon adds: the user's words first, nothing against them, nothing of another thing."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from banatie.enhancement.lexicon.circumstances import GROUPS, Circumstances
from banatie.enhancement.lexicon.entries import Lexicon
from banatie.enhancement.lexicon.reading import read
from banatie.enhancement.lexicon.saying import CLASSES_OF_KINDS, Addition, Speaker, with_article
from banatie.enhancement.lexicon.words import Words
from banatie.enhancement.prompt import parse_prompt
from banatie.enhancement.templates import load_templates
from banatie.enhancement.vocabulary import Vocabulary
from banatie.records import TEMPLATE_NAMES

VOCABULARY = Vocabulary.load()
TEMPLATES = load_templates()
ENTRIES = Lexicon.load().entries


def speaker(prompt: str, template: str = "general") -> Speaker:
    subject = parse_prompt(prompt, VOCABULARY)
    reading = read(subject.text, Lexicon.load(), Words.load())
    return Speaker(reading, subject, TEMPLATES[template], VOCABULARY, Circumstances.load())


def additions(prompt: str, template: str = "general", number: int = 30) -> list[Addition]:
    speaks = speaker(prompt, template)
    return [speaks.compose(random.Random(seed)) for seed in range(number)]


def said(prompt: str, template: str = "general") -> set[str]:
    return {phrase for each in additions(prompt, template) for phrase in each.phrases}


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_details_of_the_thing_and_phrases_of_the_style(template: str) -> None:
    owl = ENTRIES["owl"]
    for addition in additions("an owl", template):
        assert 3 <= len(addition.phrases) <= 5
        assert set(addition.phrases) & set(owl.details)
        own = {*owl.details, *owl.poses, *owl.around, *owl.light}
        assert set(addition.phrases) <= own | set(addition.style)
        slots = TEMPLATES[template].slots
        assert set(addition.style) <= {p.text for slot in slots for p in slot.phrases}


def test_the_same_state_gives_the_same_and_others_vary() -> None:
    speaks = speaker("an owl")
    assert speaks.compose(random.Random(1)) == speaks.compose(random.Random(1))
    assert len(set(additions("an owl"))) > 20


@pytest.mark.parametrize("prompt", ["a cat burglar on a horse's back", "a zorb", "a dog house"])
def test_nothing_is_said_of_what_is_not_known(prompt: str) -> None:
    assert not speaker(prompt).speaks or not said(prompt) & set(ENTRIES["cat"].details)


def test_what_is_not_to_be_seen_comes_first_and_is_not_brought_in() -> None:
    without = Circumstances.load().find("without", "people")
    assert without is not None
    for addition in additions("a train station without people"):
        assert addition.phrases[0] in without.phrases
        for phrase in addition.phrases:
            assert not set(phrase.split()) & without.bans, phrase


def test_the_time_that_the_user_said_blocks_the_light_of_another() -> None:
    night = Circumstances.load().find("time", "night")
    assert night is not None
    for addition in additions("a fox at night", "photorealistic"):
        assert set(addition.phrases) & set(night.outdoors)
        assert not any("sun" in phrase.split() for phrase in addition.phrases)
        assert not set(addition.phrases) & set(ENTRIES["fox"].light)


def test_where_a_place_is_said_no_other_is_added() -> None:
    fox = ENTRIES["fox"]
    everything = said("a fox in an office", "general")
    assert not everything & {*fox.around, *fox.light, *fox.poses}
    assert everything & set(ENTRIES["office"].details)


def test_an_action_blocks_the_pose() -> None:
    assert said("an owl") & set(ENTRIES["owl"].poses)
    assert not said("an owl eating") & set(ENTRIES["owl"].poses)


def test_colours_and_ages_are_not_contradicted() -> None:
    for phrase in said("a blue robin"):
        assert not set(phrase.replace("-", " ").split()) & {"red", "orange", "brown"}, phrase
    assert not any("stubble" in phrase for phrase in said("a young old man"))
    for phrase in said("a 20-year-old fisherman"):
        assert not set(phrase.split()) & {"wrinkled", "grey", "weathered"}, phrase


def test_with_two_things_each_detail_says_whose_it_is() -> None:
    owned = [p for p in said("a cat and a dog") if p.startswith("the ")]
    assert any(p.startswith("the cat's ") for p in owned)
    assert any(p.startswith("the dog's ") for p in owned)
    bare = {*ENTRIES["cat"].details, *ENTRIES["dog"].details}
    assert not bare & said("a cat and a dog")


def test_of_several_things_only_what_may_be_said_of_all() -> None:
    shown = said("three cats") & set(ENTRIES["cat"].details)
    assert "long white whiskers" in shown
    assert "pink leathery nose" not in shown


def test_another_language_is_answered_in_english() -> None:
    for addition in additions("ein Leuchtturm im Schneesturm"):
        assert addition.phrases[0] == "a lighthouse"
    assert "an elephant" in said("an elepant") | {"an elephant"}


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("owl", "birds", "an owl"),
        ("cat", "animals", "a cat"),
        ("scissors", "tools", "scissors"),
        ("bread", "food", "bread"),
    ],
)
def test_articles(name: str, kind: str, expected: str) -> None:
    assert with_article(name, kind) == expected


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_no_phrase_of_a_style_is_in_many_texts(template: str) -> None:
    names = [name for name, entry in ENTRIES.items() if entry.kind not in ("logos", "lettering")]
    chosen = random.Random(4).sample(names, 200)
    counted = Counter(
        phrase
        for name in chosen
        for phrase in speaker(name, template).compose(random.Random(name)).phrases
    )
    phrase, times = counted.most_common(1)[0]
    assert times <= 0.09 * len(chosen), phrase


def test_every_kind_has_its_classes_and_every_group_its_kinds() -> None:
    kinds = {entry.kind for entry in ENTRIES.values()}
    assert CLASSES_OF_KINDS.keys() == kinds
    assert set().union(*GROUPS.values()) <= kinds
    for classes in CLASSES_OF_KINDS.values():
        assert set(classes) <= VOCABULARY.classes
    for conflict in Circumstances.load().conflicts:
        assert conflict.said
        assert conflict.never
        assert conflict.kinds <= kinds


@pytest.mark.parametrize(
    ("prompt", "never"),
    [
        ("a closed umbrella", "open inside taut"),
        ("a lamp that is switched off", "light glow cone lit"),
        ("a woman in a red dress", "shirt cuffs sleeves jacket"),
        ("a couple holding hands, from behind", "smile smiles faces eyes"),
        ("a boat in a storm at night", "stars moonlit"),
        ("a flying pig", "wings"),
        ("a dog drinking water", "cup"),
        ("an astronaut floating in space", "bubbles ripples water"),
        ("a dolphin jumping out of the water", "legs"),
        ("a red rose on a black background", "garden wall"),
        ("a black horse with a white mane", "chestnut"),
        ("a modern kitchen with a marble island", "blocks rough moss"),
        ("a bicycle in the snow", "sun sunny blossom"),
        ("a library with no books", "spines books"),
        ("a modern house", "chimney shuttered picket weathered"),
        ("kids playing in the rain", "sunny sunlit dense apart"),
        ("a girl in rubber boots", "tooth braids"),
    ],
)
def test_nothing_is_said_against_the_user(prompt: str, never: str) -> None:
    words = {word for phrase in said(prompt) for word in phrase.replace("-", " ").split()}
    assert speaker(prompt).speaks
    assert not words & set(never.split())


@pytest.mark.parametrize(
    "prompt", ["a headless horseman", "a house on fire", "an Indian bride", "a peeled orange"]
)
def test_what_is_no_longer_as_always_gets_no_details(prompt: str) -> None:
    assert not speaker(prompt).speaks
