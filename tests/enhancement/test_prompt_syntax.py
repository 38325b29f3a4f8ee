"""The prompt syntax of other programs: what is a tag, and what is not supported."""

from __future__ import annotations

import pytest

from banatie.enhancement.prompt_syntax import find_tags, unsupported_syntax, without_tags


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a fox <lora:pixel-art:0.8>", "a fox"),
        ("<lora:a:1><lora:b:1> a fox", "a fox"),
        ("a fox <lora:a:1>, in the snow", "a fox, in the snow"),
        ("a <lora:a:1> fox", "a fox"),
        ("a<lora:a:1>fox", "a fox"),
        ("<lora:a:1>", ""),
    ],
)
def test_tags_are_removed(prompt: str, words: str) -> None:
    assert without_tags(prompt) == words
    assert find_tags(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        " a fox ",
        "I <3 foxes, 2 < 3 > 1",
        "see <https://x.example/y>",
        "<b>fox</b>",
        "a < b : c",
        "",
    ],
)
def test_a_prompt_without_tags_stays_as_it_is(prompt: str) -> None:
    assert without_tags(prompt) == prompt
    assert find_tags(prompt) == []


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("(red:1.3) fox", "(red:1.3)"),
        ("a (very red:2) fox", "(very red:2)"),
        ("(blade runner 2049:1.2)", "(blade runner 2049:1.2)"),
        ("((masterpiece)), fox", "((masterpiece))"),
        ("a BREAK b", "BREAK"),
        ("__color__ fox", "__color__"),
        ("__animals/fox__", "__animals/fox__"),
        ("{a|b}", "{a|b}"),
        ("a [red|blue] fox", "[red|blue]"),
        ("a [red:blue:0.5] fox", "[red:blue:0.5]"),
        ("embedding:easynegative", "embedding:easynegative"),
    ],
)
def test_syntax_that_is_not_supported_is_found(prompt: str, found: str) -> None:
    assert unsupported_syntax(prompt) == [found]


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox (red) in the snow",
        "a clock (at 10:30), ratio (16:9)",
        "breakfast, a break",
        "snake_case and __init__py",
        "a set {1, 2} and a list [1, 2]",
        "a sign that says: stop",
        "a fox <lora:a:0.8>",
    ],
)
def test_ordinary_words_are_no_syntax(prompt: str) -> None:
    assert unsupported_syntax(prompt) == []
