"""Captions describe the scene, and every word of theirs is one token."""

from __future__ import annotations

import random
from pathlib import Path

from training.captions import SHADES, all_words, known_words, write_caption
from training.exporting import write_known_words
from training.scene_catalog import OBJECTS, SETTINGS, Scene
from training.text_encoders import build_tokenizer, random_caption_scene

from banatie.models.bundled import bundled_models_dir
from banatie.models.known_words import FILE


def test_a_caption_names_its_object_and_colour() -> None:
    rng = random.Random(1)
    for _ in range(300):
        scene = random_caption_scene(rng)
        text = write_caption(scene, rng).lower()
        if scene.object:
            assert any(name in text for name in (scene.object, *OBJECTS[scene.object][1])), text
        if scene.colour:
            assert any(shade in text for shade in SHADES[scene.colour]), text


def test_every_setting_can_be_described_without_an_object() -> None:
    rng = random.Random(2)
    assert all(write_caption(Scene(None, setting=setting), rng) for setting in SETTINGS)


def test_every_word_of_the_captions_is_one_token(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    torn = [word for word in all_words() if len(tokenizer.tokenize(word)) != 1]
    assert torn == []


def test_unknown_text_becomes_known_pieces(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    ids = tokenizer("Zxqv naïve 日本 🎈").input_ids
    assert tokenizer.model_max_length == 77
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id
    assert len(ids) > 6


def test_the_bundled_model_lists_what_the_captions_name(tmp_path: Path) -> None:
    write_known_words(tmp_path)
    shipped = bundled_models_dir() / "banatie-small" / FILE
    assert (tmp_path / FILE).read_text() == shipped.read_text()
    assert {*OBJECTS} <= {*known_words()["objects"]}
    assert {*SETTINGS} - {"white"} <= {*known_words()["settings"]}
