"""The things that a model with a small vocabulary can paint."""

from __future__ import annotations

from pathlib import Path

import pytest

from banatie.errors import ModelBroken
from banatie.models.bundled import bundled_models_dir
from banatie.models.known_words import FILE, KnownWords


@pytest.fixture
def bundled() -> KnownWords:
    return KnownWords.load(bundled_models_dir() / "banatie-small")


@pytest.mark.parametrize(
    "prompt",
    ["A red FOX", "ice cream", "a t-rex", "a cup of tea, please", "a wizard at sunset", "the sea"],
)
def test_what_the_bundled_model_paints_is_known(bundled: KnownWords, prompt: str) -> None:
    assert bundled.names_any(prompt)


@pytest.mark.parametrize(
    "prompt", ["a white harpsichord", "quokka", "freedom", "astrolabes", "", "小猫", "a catalpa"]
)
def test_what_it_does_not_paint_is_not(bundled: KnownWords, prompt: str) -> None:
    assert not bundled.names_any(prompt)


def test_a_model_without_a_list_is_taken_to_know_everything(tmp_path: Path) -> None:
    assert KnownWords.load(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"objects": 5}', '{"objects": [5]}'])
def test_a_list_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ModelBroken, match=FILE):
        KnownWords.load(tmp_path)
