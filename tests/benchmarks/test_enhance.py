"""The benchmark of prompt enhancement: which prompts it uses, and which faults it finds."""

from __future__ import annotations

import pytest

from banatie.enhancement.enhancer import Enhancement
from banatie.enhancement.templates import load_few_shot_examples
from banatie.records import TEMPLATE_NAMES
from scripts.benchmarks.enhance import (
    Prompt,
    faults,
    load_prompts,
    most_common_phrase,
    prompts_of,
    table,
    without_slots,
)


def enhanced(prompt: str, own: tuple[str, ...], filled: tuple[str, ...]) -> Enhancement:
    text = ", ".join([f"A photo of {prompt}", *own, *filled])
    return Enhancement(text, "general", "tiny", "guided", 1.0, None, own, filled)


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_unseen_prompts_are_not_trained_with(template: str) -> None:
    unseen = {prompt.text for prompt in prompts_of("unseen", template)}
    assert len(unseen) >= 20
    assert not unseen & {example.prompt for example in load_few_shot_examples()[template]}
    assert not unseen & {prompt.text for prompt in load_prompts()}


def test_there_are_105_held_out_and_40_new_prompts() -> None:
    counts = {
        chosen: sum(len(prompts_of(chosen, name)) for name in TEMPLATE_NAMES)
        for chosen in ("held-out", "new", "unseen")
    }
    assert counts == {"held-out": 105, "new": 40, "unseen": 145}


def test_phrases_of_slots_are_distinguished_from_the_model_s() -> None:
    prompt = Prompt("a cat", "short")
    whole = enhanced(prompt.text, ("soft fur", "long whiskers"), ("warm side light",))
    assert faults(prompt, whole) == []
    alone = without_slots(whole)
    assert alone.text == "A photo of a cat, soft fur, long whiskers"
    assert faults(prompt, alone) == ["only 2 phrases"]


@pytest.mark.parametrize(
    ("prompt", "phrase", "fault"),
    [
        ("a castle at night", "golden hour glow", "contradiction"),
        ("a castle", "an old woman waving", "new person or animal"),
        ("a castle", "it reminds of home", "commentary"),
        ("a castle", "stone on stone walls", "repeated word"),
    ],
)
def test_faults_are_found(prompt: str, phrase: str, fault: str) -> None:
    result = enhanced(prompt, (phrase, "tall towers", "heavy gates"), ())
    assert any(found.startswith(fault) for found in faults(Prompt(prompt, "short"), result))


def test_the_most_common_phrase_and_its_share_are_counted() -> None:
    pairs = [
        (Prompt(text, "short"), enhanced(text, (), ("warm light", phrase)))
        for text, phrase in (("a cat", "soft fur"), ("a house", "old walls"))
    ]
    assert most_common_phrase(pairs) == ("warm light", 1.0)


def test_the_table_shows_the_model_s_phrases() -> None:
    pairs = [(Prompt("a cat | dog", "short"), enhanced("a cat", ("soft fur",), ("warm light",)))]
    [_, _, row] = table({"general": pairs}).splitlines()
    assert row == "| general | a cat \\| dog | A photo of a cat, *soft fur*, warm light |"
