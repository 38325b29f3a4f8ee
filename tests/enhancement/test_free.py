"""The free mode: the sentence of the reply is used, and checked against the prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.word_llama import (
    CHAT,
    CHAT_WITHOUT_SYSTEM,
    FREE_TEXT,
    PROMPT,
    build,
    chat_for,
    enhance,
    load,
    train,
)


@pytest.mark.parametrize("chat", [CHAT, CHAT_WITHOUT_SYSTEM])
def test_the_sentence_is_taken_and_commentary_cut(tmp_path: Path, chat: str) -> None:
    enhancer = load(build(tmp_path, chat), "free")
    chat_text = chat_for(enhancer, PROMPT)
    assert enhancer._decoder.encode(chat_text).count(0) == 1, "one token begins the text"
    train(enhancer, {chat_text: FREE_TEXT + "<|end|>"}, exact=False)
    result = enhance(enhancer, PROMPT)
    assert result.text == "A detailed picture of a guest house, wet slate roof, lit by a lantern"
    assert (result.mode, result.warning) == ("free", None)


def test_the_medium_is_put_before_a_text_that_has_none(tmp_path: Path) -> None:
    enhancer = load(build(tmp_path), "free")
    answer = " a guest house, wet slate roof, lit by a lantern<|end|>"
    train(enhancer, {chat_for(enhancer, PROMPT, "comic"): answer}, exact=False)
    text = enhance(enhancer, PROMPT, "comic").text
    assert text == "A comic book panel of a guest house, wet slate roof, lit by a lantern"


def test_words_that_the_model_left_out_are_restored(tmp_path: Path) -> None:
    enhancer = load(build(tmp_path), "free")
    train(enhancer, {chat_for(enhancer, "1 cat"): FREE_TEXT + "<|end|>"}, exact=False)
    result = enhance(enhancer, "1 cat")
    assert result.text.startswith("A detailed picture of 1 cat, ")
    assert "wet slate roof" in result.text


def test_an_unusable_reply_gives_the_original_and_a_warning(tmp_path: Path) -> None:
    enhancer = load(build(tmp_path), "free")
    train(enhancer, {chat_for(enhancer, PROMPT): " you love it<|end|>"}, exact=False)
    result = enhance(enhancer, PROMPT)
    assert result.text == PROMPT
    assert "nothing usable" in result.warning
