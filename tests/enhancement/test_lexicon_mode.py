"""The lexicon mode in the enhancer: which prompts it takes, and what stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from banatie.enhancement.enhancer import Enhancer
from banatie.enhancement.lexicon.entries import Lexicon
from banatie.enhancement.prompt import parse_prompt
from banatie.records import TEMPLATE_NAMES
from tests.support.word_llama import enhance, load


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_a_known_thing_is_described_by_the_lexicon(untrained: Enhancer, template: str) -> None:
    result = enhance(untrained, "an owl in the rain", template)
    assert result.mode == "lexicon"
    assert result.warning is None
    assert "owl in the rain" in result.text
    assert set(result.from_lexicon) & set(Lexicon.load().entries["owl"].details)
    assert result.from_model == ()


def test_an_unknown_thing_is_left_to_the_guided_mode(untrained: Enhancer) -> None:
    result = enhance(untrained, "a guest house")
    assert result.mode == "guided"
    assert result.from_lexicon == ()


def test_the_text_is_fitted_to_the_encoders(untrained: Enhancer) -> None:
    # Counted as seven tokens a word, little room is left.
    result = enhance(untrained, "an owl", count_tokens=lambda text: 7 * len(text.split()))
    assert 7 * len(result.text.split()) <= 75
    assert "an owl" in result.text


def test_the_seed_decides(untrained: Enhancer) -> None:
    texts = [enhance(untrained, "an owl", seed=seed).text for seed in (1, 2, 3, 1)]
    assert texts[0] == texts[3]
    assert len(set(texts)) == 3


def test_the_model_chooses_among_candidates(folder: Path) -> None:
    """Another model chooses other texts of the same candidates."""
    one, other = load(folder), load(folder)
    with torch.no_grad():
        for parameter in other._model.parameters():
            parameter.mul_(-1.7)
    pairs = [
        (enhance(one, "an owl", seed=s).text, enhance(other, "an owl", seed=s).text)
        for s in range(12)
    ]
    assert any(a != b for a, b in pairs)


def test_a_model_without_usable_numbers_leaves_the_prompt_as_it_is(folder: Path) -> None:
    broken = load(folder)
    with torch.no_grad():
        broken._model.get_input_embeddings().weight.fill_(float("nan"))
    result = enhance(broken, "an owl")
    assert result.text == "an owl"
    assert result.warning is not None


def test_larger_models_are_told_the_facts(folder: Path) -> None:
    enhancer = load(folder, "free")
    subject = parse_prompt("an owl in a forest", enhancer._vocabulary)
    facts = enhancer._lexicon.facts(subject)
    assert facts.startswith("What can be seen of owl: ")
    assert "What can be seen of forest: " in facts
    assert Lexicon.load().entries["owl"].details[0] in facts
