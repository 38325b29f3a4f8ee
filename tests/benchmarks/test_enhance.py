"""The bench of prompt enhancement: which prompts it asks, and what it finds wrong."""

from __future__ import annotations

import pytest

from banatie.enhancement.enhancer import Enhancement
from banatie.enhancement.templates import load_few_shot_examples
from banatie.records import TEMPLATE_NAMES
from scripts.benchmarks.enhance import (
    Prompt,
    commonest,
    faults,
    load_prompts,
    prompts_of,
    table,
    unaided,
)


def enhanced(prompt: str, own: tuple[str, ...], filled: tuple[str, ...]) -> Enhancement:
    text = ", ".join([f"A photo of {prompt}", *own, *filled])
    return Enhancement(text, "general", "tiny", "guided", 1.0, None, own, filled)


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_nothing_was_taught_with_what_it_asks(template: str) -> None:
    unseen = {prompt.text for prompt in prompts_of("unseen", template)}
    assert len(unseen) >= 20
    assert not unseen & {example.prompt for example in load_few_shot_examples()[template]}
    assert not unseen & {prompt.text for prompt in load_prompts()}


def test_there_are_a_hundred_and_five_aside_and_forty_new() -> None:
    counts = {
        chosen: sum(len(prompts_of(chosen, name)) for name in TEMPLATE_NAMES)
        for chosen in ("aside", "new", "unseen")
    }
    assert counts == {"aside": 105, "new": 40, "unseen": 145}


def test_what_the_slots_filled_is_told_from_what_the_model_wrote() -> None:
    prompt = Prompt("a cat", "short")
    whole = enhanced(prompt.text, ("soft fur", "long whiskers"), ("warm side light",))
    assert faults(prompt, whole) == []
    alone = unaided(whole)
    assert alone.text == "A photo of a cat, soft fur, long whiskers"
    assert faults(prompt, alone) == ["only 2 phrases"]


@pytest.mark.parametrize(
    ("prompt", "phrase", "fault"),
    [
        ("a castle at night", "golden hour glow", "contradiction"),
        ("a castle", "an old woman waving", "somebody new"),
        ("a castle", "it reminds of home", "talk"),
        ("a castle", "stone on stone walls", "stutter"),
    ],
)
def test_what_is_wrong_is_found(prompt: str, phrase: str, fault: str) -> None:
    result = enhanced(prompt, (phrase, "tall towers", "heavy gates"), ())
    assert any(found.startswith(fault) for found in faults(Prompt(prompt, "short"), result))


def test_the_commonest_phrase_and_its_share_are_counted() -> None:
    pairs = [
        (Prompt(text, "short"), enhanced(text, (), ("warm light", phrase)))
        for text, phrase in (("a cat", "soft fur"), ("a house", "old walls"))
    ]
    assert commonest(pairs) == ("warm light", 1.0)


def test_a_table_for_reading_shows_who_wrote_what() -> None:
    pairs = [(Prompt("a cat | dog", "short"), enhanced("a cat", ("soft fur",), ("warm light",)))]
    [_, _, row] = table({"general": pairs}).splitlines()
    assert row == "| general | a cat \\| dog | A photo of a cat, *soft fur*, warm light |"
