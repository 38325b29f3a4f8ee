"""What the user asks for, what a phrase may say beside it, and how the two are put together."""

from __future__ import annotations

import pytest

from banatie.enhancement import prompt as phrasing
from banatie.enhancement.chat_prompt import nearest
from banatie.enhancement.templates import Template, load_few_shot_examples, load_templates
from banatie.enhancement.vocabulary import Vocabulary
from banatie.records import TEMPLATE_NAMES


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
    assert phrasing.read(prompt, vocabulary).text == text


@pytest.mark.parametrize(
    ("prompt", "opening"),
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
    prompt: str, opening: str, vocabulary: Vocabulary, templates: dict[str, Template]
) -> None:
    subject = phrasing.read(prompt, vocabulary)
    assert phrasing.opening(subject, templates["photorealistic"], vocabulary) == opening


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
def test_a_visual_clause_stands(clause: str, vocabulary: Vocabulary) -> None:
    subject = phrasing.read("a castle at night", vocabulary)
    assert phrasing.judge(clause, subject, [], vocabulary).reason is None


@pytest.mark.parametrize(
    ("clause", "reason"),
    [
        ("I'm going to take you there", "talk"),
        ("it is a testament to beauty", "talk"),
        ("this image was edited", "talk"),
        ("golden hour sunlight", "daylight against night"),
        ("a young woman beside the gate", "stranger: woman"),
        ("a castle at night", "repetition"),
        ("stone stone walls", "stutter"),
        ("450 metres of walls", "number"),
        ("walls of the", "unfinished"),
        ("walls around a large castle", "another one of the user's"),
        ("deep dark", "nothing described"),
        ("a blue and gold", "nothing described"),
        ("fine detail in the dark", "nothing described"),
        ("castle with deep shadows", "another one of the user's"),
        ("shadows", "thin"),
        ("zorbing quux walls flarn", "unknown words"),
        ("stickers “sold” here", "characters"),
        ("soft pale light falling over the old walls and gates", "length"),
        ("colours of red", "no palette"),
    ],
)
def test_a_clause_that_is_no_picture_falls(
    clause: str, reason: str, vocabulary: Vocabulary
) -> None:
    subject = phrasing.read("a castle at night", vocabulary)
    assert phrasing.judge(clause, subject, [], vocabulary).reason == reason


def test_an_aspect_is_said_once(vocabulary: Vocabulary) -> None:
    subject = phrasing.read("a castle in soft moonlight", vocabulary)
    assert phrasing.judge("lit by lanterns", subject, [], vocabulary).reason == "light again"
    plain = phrasing.read("a castle at night", vocabulary)
    taken = ["lit by moonlight"]
    assert phrasing.judge("warm lantern light", plain, taken, vocabulary).reason == "light again"


def test_a_taught_model_may_bring_new_things_but_no_talk(vocabulary: Vocabulary) -> None:
    subject = phrasing.read("a castle at night", vocabulary)

    def lax(clause: str) -> bool:
        return phrasing.judge(clause, subject, [], vocabulary, strict=False).good

    assert lax("two ravens circling the highest tower")
    assert lax("f/2.8 at ISO 3200")
    assert not lax("bright golden hour sunlight")
    assert not lax("it reminds you of home")


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
    subject = phrasing.read(prompt, vocabulary)
    fitting = [
        fit.text
        for slot in templates["photorealistic"].slots
        for fit in phrasing.fitting_phrases(slot, subject, [], vocabulary)
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
    subject = phrasing.read(prompt, vocabulary)
    phrases, from_slots = phrasing.fill(templates[name], subject, [], {}, vocabulary, seed=1)
    assert len(phrases) >= (1 if subject.detailed else 3)
    assert phrases == from_slots


def test_the_seed_decides_among_the_fitting(
    vocabulary: Vocabulary, templates: dict[str, Template]
) -> None:
    subject = phrasing.read("a cat", vocabulary)

    def filled(seed: int) -> tuple[str, ...]:
        return tuple(phrasing.fill(templates["comic"], subject, [], {}, vocabulary, seed)[0])

    assert filled(1) == filled(1)
    assert len({filled(seed) for seed in range(10)}) > 3


def test_what_the_model_finished_is_one_choice_among_the_template_s(
    vocabulary: Vocabulary, templates: dict[str, Template]
) -> None:
    subject = phrasing.read("a castle at night", vocabulary)
    finished = {"light": "lit by moonlight", "texture": "the castle at night"}
    taken = []
    for seed in range(20):
        phrases, from_slots = phrasing.fill(
            templates["photorealistic"], subject, ["wet cobblestones"], finished, vocabulary, seed
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
def test_what_is_known_of_a_thing_is_told_of_the_thing_itself(
    prompt: str, first: str | None, vocabulary: Vocabulary, templates: dict[str, Template]
) -> None:
    details = templates["general"].details
    known = phrasing.about(phrasing.read(prompt, vocabulary), details, vocabulary)
    assert next(iter(known), None) == first


def test_details_of_the_subject_are_told_as_often_as_the_template_says(
    vocabulary: Vocabulary, templates: dict[str, Template]
) -> None:
    subject = phrasing.read("a castle", vocabulary)
    for template in templates.values():
        phrases, _ = phrasing.fill(template, subject, [], {}, vocabulary, seed=1)
        known = phrasing.about(subject, template.details, vocabulary)
        assert len(set(phrases) & set(known)) == template.details_shown, template.name


def test_who_sleeps_looks_at_nobody(vocabulary: Vocabulary, templates: dict[str, Template]) -> None:
    subject = phrasing.read("a cat sleeping", vocabulary)
    told = [
        phrase
        for seed in range(30)
        for phrase in phrasing.fill(templates["general"], subject, [], {}, vocabulary, seed)[0]
    ]
    assert "long fine whiskers" in told
    assert not [phrase for phrase in told if "eyes" in phrase or "gaze" in phrase]


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
def test_what_taught_models_invent_is_known(
    clause: str, invented: bool, vocabulary: Vocabulary
) -> None:
    assert phrasing.invents(clause, vocabulary) is invented


def test_the_nearest_examples_are_of_the_prompt_s_kind(vocabulary: Vocabulary) -> None:
    worked = load_few_shot_examples()["photorealistic"]

    def shown(prompt: str) -> list[str]:
        subject = phrasing.read(prompt, vocabulary)
        return [example.prompt for example in nearest(subject, worked, vocabulary)]

    def classes(prompt: str) -> frozenset[str]:
        return phrasing.read(prompt, vocabulary).classes

    assert all("animal" in classes(example) for example in shown("a wolf"))
    assert all("food" in classes(example) for example in shown("a plate of pasta"))
    assert len(shown("a wolf")) == 3
    unknown = {tuple(shown(prompt)) for prompt in ("zorblax", "quuxly", "flarn", "wibbling")}
    assert len(unknown) > 1, "not always the same three"
    assert shown("zorblax") == shown("zorblax")


def test_a_detailed_prompt_gets_little(vocabulary: Vocabulary) -> None:
    detailed = phrasing.read("a dog, soft light, 85mm lens, blurred background", vocabulary)
    assert detailed.detailed
    assert detailed.wanted < phrasing.read("a dog", vocabulary).wanted


def words(text: str) -> int:
    return len(text.split())


def test_phrases_fill_the_chunk_and_no_more() -> None:
    text = " ".join(["word"] * 50)
    kept = phrasing.fit(text, ["ten " * 9 + "ten", "twenty " * 19 + "twenty", "five more"], words)
    assert kept == ["ten " * 9 + "ten", "five more"]


@pytest.mark.parametrize(("own", "limit"), [(50, 75), (61, 150), (75, 150), (140, 225)])
def test_a_long_prompt_is_never_cut_and_gets_room(own: int, limit: int) -> None:
    text = " ".join(["word"] * own)
    kept = phrasing.fit(text, ["phrase"] * 300, words)
    assert own + len(kept) == limit


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("a cat", "a cat, soft fur, warm light"),
        ("Is it a cat?", "Is it a cat? Soft fur, warm light"),
    ],
)
def test_phrases_join_with_commas_or_begin_anew(text: str, joined: str) -> None:
    assert phrasing.join_phrases(text, ["soft fur", "warm light"]) == joined
    assert phrasing.join_phrases(text, []) == text


def test_a_list_of_colours_is_one_clause(vocabulary: Vocabulary) -> None:
    text = " soft fur, colours of teal, cream and rust, and deep shadows. And then it"
    assert phrasing.split_clauses(text, vocabulary) == [
        "soft fur",
        "colours of teal, cream and rust",
        "deep shadows",
    ]


@pytest.mark.parametrize(
    "answer",
    [
        "A cat, soft fur.",
        "Sure! Here is the prompt: A cat, soft fur.",
        "Here's an enhanced description:\n\nA cat, soft fur.\n\nLet me know!",
        '"A cat, soft fur."',
        "**Prompt:** A cat, soft fur",
        "1. A cat, soft fur",
        "<think>The user wants a cat.</think>\n\nA cat, soft fur.",
    ],
)
def test_what_models_put_around_a_sentence_goes(answer: str) -> None:
    assert phrasing.sentence_of(answer) == "A cat, soft fur"


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
    subject = phrasing.read('Mia eating 3 red apples under a "SALE" sign', vocabulary)
    assert phrasing.keeps(rewritten, subject, vocabulary) is kept


def test_tags_are_put_back_behind_everything(vocabulary: Vocabulary) -> None:
    subject = phrasing.read("a cat <lora:fur:0.8>, on a sofa", vocabulary)
    assert subject.tags == ("<lora:fur:0.8>",)
    assert phrasing.with_tags("a cat, soft fur", subject) == "a cat, soft fur <lora:fur:0.8>"
