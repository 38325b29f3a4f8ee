"""Text encoding: equal to the pipeline's own up to one chunk, and complete beyond it."""

from __future__ import annotations

import json
import logging
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from banatie.errors import ModelBroken
from banatie.painting.text_encoding import (
    LOOK_BACK,
    PromptEncoder,
    PromptTokenizer,
    split_into_chunks,
    token_counter,
)

LONG = ", ".join(f"a red cat on the road in soft light of {n}" for n in range(24))


@pytest.fixture(scope="module")
def folder(original: Path) -> Path:
    return original


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)


def encoder_of(pipeline: StableDiffusionXLPipeline, zeros: bool = False) -> PromptEncoder:
    return PromptEncoder(
        (pipeline.tokenizer, pipeline.tokenizer_2),
        (pipeline.text_encoder, pipeline.text_encoder_2),
        zeros,
    )


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("negative", ["", "blurry, dark"])
@pytest.mark.parametrize(
    "prompt",
    ["a", "A Photo of a  red cat,\nsoft light.", "größe 漢字 🐈", "<|endoftext|> cat", "a " * 75],
)
def test_up_to_75_tokens_the_embeddings_are_the_pipelines_own(
    pipeline: StableDiffusionXLPipeline, prompt: str, negative: str, zeros: bool
) -> None:
    pipeline.register_to_config(force_zeros_for_empty_prompt=zeros)
    with torch.inference_mode():
        expected = pipeline.encode_prompt(prompt, negative_prompt=negative or None)
    positive, opposite = encoder_of(pipeline, zeros).encode_batch([prompt], [negative])
    found = (positive.sequence, opposite.sequence, positive.pooled, opposite.pooled)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_long_prompt_is_read_whole_and_quietly(
    pipeline: StableDiffusionXLPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = encoder_of(pipeline)
    for name in ("transformers", "diffusers"):
        logging.getLogger(name).addHandler(caplog.handler)
    whole = encoder.encode(LONG)
    changed = encoder.encode(LONG[:-1] + "9")
    for name in ("transformers", "diffusers"):
        logging.getLogger(name).removeHandler(caplog.handler)
    chunks = PromptTokenizer(pipeline.tokenizer).chunks(LONG, 75)
    assert whole.sequence.shape == (1, 77 * len(chunks), 32)
    assert len(chunks) > 2
    assert not torch.equal(whole.sequence[:, -77:], changed.sequence[:, -77:])
    assert torch.equal(whole.sequence[:, :77], changed.sequence[:, :77])
    assert caplog.records == []


def test_each_chunk_is_what_the_encoders_make_of_its_text_alone(
    pipeline: StableDiffusionXLPipeline,
) -> None:
    tokenizer = PromptTokenizer(pipeline.tokenizer)
    encoder = encoder_of(pipeline)
    whole = encoder.encode(LONG)
    texts = [pipeline.tokenizer.decode(chunk) for chunk in tokenizer.chunks(LONG, 75)]
    for index, text in enumerate(texts):
        alone = encoder.encode(text)
        part = whole.sequence[:, 77 * index : 77 * (index + 1)]
        torch.testing.assert_close(part, alone.sequence)
    torch.testing.assert_close(whole.pooled, encoder.encode(texts[0]).pooled)


@pytest.mark.parametrize(("prompt", "negative"), [(LONG, "dark"), ("a cat", LONG), (LONG, LONG)])
def test_prompt_and_negative_are_filled_up_to_the_same_length(
    pipeline: StableDiffusionXLPipeline, prompt: str, negative: str
) -> None:
    encoder = encoder_of(pipeline)
    positive, opposite = encoder.encode_batch([prompt], [negative])
    assert positive.sequence.shape == opposite.sequence.shape
    empty = encoder.encode("").sequence
    for text, extended in ((prompt, positive), (negative, opposite)):
        own = encoder.encode(text)
        length = own.sequence.shape[1]
        assert torch.equal(extended.sequence[:, :length], own.sequence)
        assert torch.equal(extended.pooled, own.pooled)
        for start in range(length, extended.sequence.shape[1], 77):
            assert torch.equal(extended.sequence[:, start : start + 77], empty)


def test_zeros_stand_for_an_absent_negative_of_any_length(
    pipeline: StableDiffusionXLPipeline,
) -> None:
    positive, opposite = encoder_of(pipeline, zeros=True).encode_batch([LONG], [" "])
    assert opposite.sequence.shape == positive.sequence.shape
    assert not opposite.sequence.any()
    assert not opposite.pooled.any()


def test_chunks_begin_after_a_pause_else_between_words_and_lose_nothing(
    pipeline: StableDiffusionXLPipeline,
) -> None:
    tokenizer = PromptTokenizer(pipeline.tokenizer)
    decode = pipeline.tokenizer.decode
    for text, ending in ((LONG, ","), (LONG.replace(",", ""), ""), (LONG.replace(",", "\n"), "")):
        chunks = tokenizer.chunks(text, 75)
        assert all(decode(chunk).rstrip().endswith(ending) for chunk in chunks[:-1])
        assert " ".join(" ".join(map(decode, chunks)).split()) == decode(
            [token for chunk in tokenizer.chunks(text, 10_000) for token in chunk]
        )
    # Each number is a word of its own, so that a line's first word tells where it was cut.
    lines = tokenizer.chunks(LONG.replace(",", "\n"), 75)
    assert all(decode(chunk).startswith("a red cat") for chunk in lines)


def test_a_word_longer_than_a_chunk_is_cut_rather_than_dropped(
    pipeline: StableDiffusionXLPipeline,
) -> None:
    tokenizer = PromptTokenizer(pipeline.tokenizer)
    word = "漢字" * 60
    chunks = tokenizer.chunks(word, 75)
    assert [len(chunk) for chunk in chunks[:-1]] == [75] * (len(chunks) - 1)
    assert pipeline.tokenizer.decode([token for chunk in chunks for token in chunk]) == word


def test_splitting_keeps_every_token_in_order_and_every_chunk_in_bounds() -> None:
    generator = random.Random(7)
    for _ in range(300):
        tokens = list(range(generator.randrange(400)))
        breaks = [sorted(generator.sample(tokens, len(tokens) // share)) for share in (20, 3)]
        chunks = split_into_chunks(tokens, breaks, 75)
        assert [token for chunk in chunks for token in chunk] == tokens
        assert all(75 - LOOK_BACK < len(chunk) <= 75 for chunk in chunks[:-1])
        assert len(chunks[-1]) <= 75
    assert split_into_chunks([], ([], []), 75) == [[]]
    assert split_into_chunks([1] * 75, ([], []), 75) == [[1] * 75]


def test_the_counter_gives_the_larger_count_and_reads_only_the_tokenizers(folder: Path) -> None:
    count = token_counter(folder)
    assert count("") == 0
    assert count("a red cat, soft light") == 6
    assert count("a " * 300) == 300
    assert count("half a pair: \ud83d") == count("half a pair: ?")


def test_the_counter_serves_many_threads_at_once(folder: Path) -> None:
    count = token_counter(folder)
    texts = [f"a red cat number {n} " * (n % 40) for n in range(400)]
    expected = [count(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(count, texts)) == expected


def test_using_the_pipelines_tokenizer_does_not_disturb_ours(
    pipeline: StableDiffusionXLPipeline,
) -> None:
    tokenizer = PromptTokenizer(pipeline.tokenizer)
    pipeline.tokenizer("a", padding="max_length", max_length=77, truncation=True)
    assert tokenizer.count("a cat") == 2
    assert tokenizer.count("a " * 100) == 100


def test_a_tokenizer_that_cuts_by_itself_is_not_allowed_to(original: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(original, tmp_path / "tiny"))
    for name in ("tokenizer", "tokenizer_2"):
        file = folder / name / "tokenizer.json"
        content = json.loads(file.read_text("utf-8"))
        content["truncation"] = {
            "direction": "Right",
            "max_length": 77,
            "strategy": "LongestFirst",
            "stride": 0,
        }
        file.write_text(json.dumps(content), "utf-8")
    assert token_counter(folder)("a " * 200) == 200


def test_a_missing_or_broken_tokenizer_is_named(original: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(original, tmp_path / "tiny"))
    (folder / "tokenizer_2" / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(ModelBroken, match="tokenizer_2"):
        token_counter(folder)
    with pytest.raises(ModelBroken, match="tokenizer is missing"):
        token_counter(tmp_path)
