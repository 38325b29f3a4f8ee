"""The guided mode: stems completed by a stock model, clauses of a fine-tuned one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from banatie.enhancement.enhancer import Enhancer
from banatie.enhancement.guided import few_shot_prefix, fine_tuned_prefix
from banatie.enhancement.templates import load_templates
from banatie.records import TEMPLATE_NAMES
from tests.support.tiny_models import edit_json
from tests.support.word_llama import (
    FINE_TUNED_TEXT,
    GUIDED_TEXT,
    NEUTRAL_TEXT,
    PROMPT,
    count_words,
    enhance,
    load,
    train,
)


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_even_a_model_that_knows_nothing_gives_a_clean_prompt(
    untrained: Enhancer, template: str
) -> None:
    result = enhance(untrained, "Marie Curie with 3 cats", template)
    assert result.warning is None
    assert result.template == template
    assert (result.model, result.mode) == ("tiny", "guided")
    assert "Marie Curie with 3 cats" in result.text
    assert result.text.count(", ") >= 3
    assert result.seconds > 0


def test_the_same_seed_gives_the_same_text_and_others_differ(
    untrained: Enhancer, folder: Path
) -> None:
    texts = [enhance(untrained, "a cat", seed=seed).text for seed in range(4)]
    assert [enhance(untrained, "a cat", seed=seed).text for seed in range(4)] == texts
    assert enhance(load(folder), "a cat", seed=3).text == texts[3]
    assert len(set(texts)) > 2


def test_a_stock_model_completes_a_stem_and_no_more(folder: Path) -> None:
    enhancer = load(folder)
    template = load_templates()["general"]
    train(
        enhancer, {f"{few_shot_prefix(template)}A detailed picture of a guest house,": GUIDED_TEXT}
    )
    results = [enhance(enhancer, PROMPT, seed=seed) for seed in range(8)]
    completed = [result for result in results if "lit by warm light" in result.from_model]
    assert 0 < len(completed) < len(results), "one choice among the template's phrases"
    for result in results:
        assert result.text.startswith("A detailed picture of a guest house, ")
        assert "sell" not in result.text


def test_of_a_fine_tuned_model_the_clauses_stay_that_are_specific_to_the_subject(
    folder: Path, tmp_path: Path
) -> None:
    """Dropped is what it says of any subject, and what it counts."""
    fine_tuned = shutil.copytree(folder, tmp_path / "fine-tuned")
    edit_json(fine_tuned / "config.json", merged_adapter="9e0a")
    enhancer = load(fine_tuned)
    prefix = fine_tuned_prefix(load_templates()["general"])
    answers = {PROMPT: FINE_TUNED_TEXT, "something": NEUTRAL_TEXT}
    train(
        enhancer,
        {f"{prefix}A detailed picture of {p},": text for p, text in answers.items()},
    )
    result = enhance(enhancer, PROMPT)
    assert result.from_model == ("weathered stone walls",)
    assert "doors" not in result.text
    assert enhance(enhancer, "something").from_model == ()


def test_a_very_long_prompt_is_read_at_its_end_only(untrained: Enhancer) -> None:
    own = " ".join(["leaf"] * 3000)
    assert enhance(untrained, own).text.count("leaf") >= 3000


def test_the_result_fits_the_encoders_chunk(untrained: Enhancer) -> None:
    own = " ".join(f"thing{n}" for n in range(56))
    text = enhance(untrained, own).text
    assert own in text
    assert count_words(own) < count_words(text) <= 75
    long = own + " " + own
    text = enhance(untrained, long).text
    assert long in text
    assert count_words(long) < count_words(text) <= 150
