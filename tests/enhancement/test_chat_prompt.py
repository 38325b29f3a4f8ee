"""Which few-shot examples are shown, and what counts in a reply."""

from __future__ import annotations

import pytest

from banatie.enhancement.chat_prompt import extract_sentence, nearest_examples
from banatie.enhancement.prompt import parse_prompt
from banatie.enhancement.templates import load_few_shot_examples
from banatie.enhancement.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.load()


def test_the_nearest_examples_are_of_the_prompt_s_kind(vocabulary: Vocabulary) -> None:
    examples = load_few_shot_examples()["photorealistic"]

    def shown(prompt: str) -> list[str]:
        subject = parse_prompt(prompt, vocabulary)
        return [each.prompt for each in nearest_examples(subject, examples, vocabulary)]

    def classes(prompt: str) -> frozenset[str]:
        return parse_prompt(prompt, vocabulary).classes

    assert all("animal" in classes(example) for example in shown("a wolf"))
    assert all("food" in classes(example) for example in shown("a plate of pasta"))
    assert len(shown("a wolf")) == 3
    unknown = {tuple(shown(prompt)) for prompt in ("zorblax", "quuxly", "flarn", "wibbling")}
    assert len(unknown) > 1, "not always the same three"
    assert shown("zorblax") == shown("zorblax")


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
def test_text_around_the_sentence_is_removed(answer: str) -> None:
    assert extract_sentence(answer) == "A cat, soft fur"
