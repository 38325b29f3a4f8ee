"""Prompt weights: how they are read, and what they do to the embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from banatie.painting.prompt_weights import (
    WeightedPrompt,
    apply_weights,
    escape,
    has_weights,
    parse_weights,
    read_prompt,
)
from banatie.painting.text_encoding import PromptEncoder
from tests.support.tiny_painter import load, paint


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a cat", [("a cat", 1)]),
        ("a (red) cat", [("a ", 1), ("red", 1.1), (" cat", 1)]),
        ("a [red] cat", [("a ", 1), ("red", 1 / 1.1), (" cat", 1)]),
        ("a ((red)) cat", [("a ", 1), ("red", 1.21), (" cat", 1)]),
        ("(red:1.5)", [("red", 1.5)]),
        ("(red : .5 )", [("red ", 0.5)]),
        ("(a (red:2) cat:0.5)", [("a ", 0.5), ("red", 1), (" cat", 0.5)]),
        ("[(red)]", [("red", 1.1 / 1.1)]),
        (r"a \(red\) \[cat\] \\", [("a (red) [cat] \\", 1)]),
        ("(red", [("red", 1.1)]),
        ("red) cat]", [("red) cat]", 1)]),
        ("at 10:30, ratio 3:2", [("at 10:30, ratio 3:2", 1)]),
        ("10:30)", [("10:30)", 1)]),
        ("", []),
    ],
)
def test_weights_are_read_as_webui_reads_them(prompt, parts):
    found = [(each.text, each.weight) for each in parse_weights(prompt)]
    assert [text for text, _ in found] == [text for text, _ in parts]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in parts])


def test_a_break_begins_a_section_and_keeps_the_weight():
    prompt = read_prompt("a (red cat BREAK blue:2) dog", "webui")
    sections = [[(each.text, each.weight) for each in each_] for each_ in prompt.sections]
    assert sections == [[("a ", 1), ("red cat", 2)], [("blue", 2), (" dog", 1)]]


def test_what_weighs_nothing_is_a_plain_text():
    assert read_prompt(r"a \(red\) cat", "webui") == "a (red) cat"
    assert read_prompt("a (red:2) BREAK cat", "plain") == "a (red:2) BREAK cat"
    assert not has_weights("a cat, BREAKFAST")
    assert has_weights("a cat BREAK a dog")
    text = r"a (red) \ [cat]"
    assert read_prompt(escape(text), "webui") == text


@pytest.fixture(scope="module")
def pipeline(original: Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(original, local_files_only=True)


@pytest.fixture
def encoder(pipeline: StableDiffusionXLPipeline) -> PromptEncoder:
    return PromptEncoder(
        (pipeline.tokenizer, pipeline.tokenizer_2),
        (pipeline.text_encoder, pipeline.text_encoder_2),
        True,
    )


def test_a_weight_multiplies_its_tokens_and_the_mean_is_restored(pipeline, encoder):
    plain = encoder.encode("a red cat")
    weighted = encoder.encode(read_prompt("a (red:1.5) cat", "webui"))
    before, red = (
        len(pipeline.tokenizer(text, add_special_tokens=False).input_ids) for text in ("a", "red")
    )
    # The rule, computed for each encoder by itself.
    widths = [each.config.hidden_size for each in (pipeline.text_encoder, pipeline.text_encoder_2)]
    expected = []
    for states in plain.sequence.split(widths, dim=-1):
        changed = states.clone()
        changed[:, 1 + before : 1 + before + red] *= 1.5
        expected.append(changed * states.mean() / changed.mean())
    torch.testing.assert_close(weighted.sequence, torch.cat(expected, -1))
    assert torch.equal(weighted.pooled, plain.pooled)


def test_sections_are_chunks_of_their_own(encoder):
    parts = [encoder.encode(text) for text in ("a red cat", "a blue dog")]
    both = encoder.encode(read_prompt("a red cat BREAK a blue dog", "webui"))
    torch.testing.assert_close(both.sequence, torch.cat([each.sequence for each in parts], 1))
    torch.testing.assert_close(both.pooled, parts[0].pooled)


def test_a_long_prompt_with_weights_is_read_whole(encoder):
    words = ", ".join(["a red cat on the road in soft light"] * 12)
    weighted = read_prompt(f"({words}:1.2), and a dog", "webui")
    assert isinstance(weighted, WeightedPrompt)
    assert encoder.chunks(weighted) == encoder.chunks(f"{words}, and a dog")
    assert encoder.encode(weighted).sequence.shape[1] == 77 * encoder.chunks(weighted)


def test_a_mean_of_zero_stays():
    states = torch.tensor([[[1.0, -1.0], [2.0, -2.0]]])
    assert torch.equal(
        apply_weights(states, [[1.0, 2.0]]), torch.tensor([[[1.0, -1.0], [4.0, -4.0]]])
    )


def test_weights_change_the_picture_with_their_syntax_only(original: Path):
    painter = load(original)
    weighted = "a (red:1.6) cat"
    pictures = [
        paint(painter, prompt=weighted),
        paint(painter, prompt=weighted, prompt_syntax="webui"),
        paint(painter, prompt="a red cat"),
        paint(painter, prompt="a red cat", negative_prompt="[dog]", prompt_syntax="webui"),
    ]
    assert len(set(pictures)) == 4
    assert pictures[2] == paint(painter, prompt="a red cat", prompt_syntax="webui")
