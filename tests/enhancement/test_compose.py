"""Which phrases are added to a subject, and how many fit."""

from __future__ import annotations

import pytest

from banatie.enhancement.compose import (
    fit_to_chunks,
    fitting_phrases,
    known_details,
    select_phrases,
)
from banatie.enhancement.prompt import parse_prompt
from banatie.enhancement.templates import Template, load_templates
from banatie.enhancement.vocabulary import Vocabulary
from banatie.records import TEMPLATE_NAMES


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.load()


@pytest.fixture(scope="module")
def templates() -> dict[str, Template]:
    return dict(load_templates())


@pytest.mark.parametrize(
    ("prompt", "phrase"),
    [
        ("a castle at night", "golden hour sunlight"),
        ("a kitchen", "golden hour sunlight"),
        ("a red car", "natural skin texture"),
        ("a watercolor of a man", "85mm portrait lens at f/1.8"),
        ("a man, 50mm lens", "85mm portrait lens at f/1.8"),
        ("a black and white portrait", "natural, unforced colours"),
        ("a fish underwater", "golden hour sunlight"),
        ("логотип", "golden hour sunlight"),
        ("un castillo de noche", "golden hour sunlight"),
        ("夜の城", "golden hour sunlight"),
    ],
)
def test_no_slot_contradicts_the_user(
    prompt: str, phrase: str, vocabulary: Vocabulary, templates: dict[str, Template]
) -> None:
    subject = parse_prompt(prompt, vocabulary)
    fitting = [
        fit.text
        for slot in templates["photorealistic"].slots
        for fit in fitting_phrases(slot, subject, [], vocabulary)
    ]
    assert fitting
    assert phrase not in fitting


@pytest.mark.parametrize("name", TEMPLATE_NAMES)
@pytest.mark.parametrize(
    "prompt",
    [
        "a cat",
        "zorblax",
        "un castillo de noche",
        "a logo for a bakery",
        "a photo of a dog",
        "a watercolor painting of a sailboat",
        "a black and white portrait of a man",
        "an underwater city",
        "pixel art of a ramen stand, neon light, pastel palette",
        "a photo of a dog, soft light, 85mm lens, blurred background",
    ],
)
def test_slots_alone_add_three_phrases_to_anything(
    name: str, prompt: str, vocabulary: Vocabulary, templates: dict[str, Template]
) -> None:
    subject = parse_prompt(prompt, vocabulary)
    phrases, from_slots = select_phrases(templates[name], subject, [], {}, vocabulary, seed=1)
    assert len(phrases) >= (1 if subject.detailed else 3)
    assert phrases == from_slots


def test_the_seed_decides_among_the_fitting(
    vocabulary: Vocabulary, templates: dict[str, Template]
) -> None:
    subject = parse_prompt("a cat", vocabulary)

    def filled(seed: int) -> tuple[str, ...]:
        return tuple(select_phrases(templates["comic"], subject, [], {}, vocabulary, seed)[0])

    assert filled(1) == filled(1)
    assert len({filled(seed) for seed in range(10)}) > 3


def test_the_model_s_completion_is_one_choice_among_the_template_s(
    vocabulary: Vocabulary, templates: dict[str, Template]
) -> None:
    subject = parse_prompt("a castle at night", vocabulary)
    completions = {"light": "lit by moonlight", "texture": "the castle at night"}
    taken = []
    for seed in range(20):
        phrases, from_slots = select_phrases(
            templates["photorealistic"],
            subject,
            ["wet cobblestones"],
            completions,
            vocabulary,
            seed,
        )
        assert phrases[0] == "wet cobblestones"
        assert "the castle at night" not in phrases
        taken.append("lit by moonlight" in phrases)
        assert len(from_slots) == len(phrases) - 1 - taken[-1]
    assert 2 < sum(taken) < 18


@pytest.mark.parametrize(
    ("prompt", "first"),
    [
        ("a cat", "upright triangular ears"),
        ("two cats on a sofa", "upright triangular ears"),
        ("Gato negro durmiendo", "upright triangular ears"),
        ("a hot dog", "soft split bun"),
        ("a small wooden robot watering plants", None),
        ("a rusty old robot watering plants", "jointed metal limbs"),
        ("a leather wallet", "even edge stitching"),
        ("a cat burglar", None),
        ("a paper boat", None),
        ("my dog's bowl", None),
        ("a car parked behind a barn", "low curved bodywork"),
        ("somebody behind a barn", None),
        ("@cat in Paris", None),
        ("a poster that says 'cat'", None),
        ("logo with a fox", None),
        ("夜", None),
    ],
)
def test_known_details_are_those_of_the_thing_itself(
    prompt: str, first: str | None, vocabulary: Vocabulary, templates: dict[str, Template]
) -> None:
    details = templates["general"].details
    known = known_details(parse_prompt(prompt, vocabulary), details, vocabulary)
    assert next(iter(known), None) == first


def test_the_template_decides_how_many_details_are_added(
    vocabulary: Vocabulary, templates: dict[str, Template]
) -> None:
    subject = parse_prompt("a castle", vocabulary)
    for template in templates.values():
        phrases, _ = select_phrases(template, subject, [], {}, vocabulary, seed=1)
        known = known_details(subject, template.details, vocabulary)
        assert len(set(phrases) & set(known)) == template.details_shown, template.name


def test_a_sleeping_animal_has_no_open_eyes(
    vocabulary: Vocabulary, templates: dict[str, Template]
) -> None:
    subject = parse_prompt("a cat sleeping", vocabulary)
    added = [
        phrase
        for seed in range(30)
        for phrase in select_phrases(templates["general"], subject, [], {}, vocabulary, seed)[0]
    ]
    assert "long fine whiskers" in added
    assert not [phrase for phrase in added if "eyes" in phrase or "gaze" in phrase]


def words(text: str) -> int:
    return len(text.split())


def test_phrases_fill_the_chunk_and_no_more() -> None:
    text = " ".join(["word"] * 50)
    kept = fit_to_chunks(text, ["ten " * 9 + "ten", "twenty " * 19 + "twenty", "five more"], words)
    assert kept == ["ten " * 9 + "ten", "five more"]


@pytest.mark.parametrize(("own", "limit"), [(50, 75), (61, 150), (75, 150), (140, 225)])
def test_a_long_prompt_is_never_cut_and_gets_room(own: int, limit: int) -> None:
    text = " ".join(["word"] * own)
    kept = fit_to_chunks(text, ["phrase"] * 300, words)
    assert own + len(kept) == limit
