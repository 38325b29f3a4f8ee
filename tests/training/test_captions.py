"""Captions describe the scene, and every word of theirs is one token."""

from __future__ import annotations

import random
from pathlib import Path

from training.captions import SHADES, base_words, known_words, write_caption
from training.networks import write_known_words
from training.scene_catalog import SETTINGS, Scene
from training.text_encoders import build_tokenizer, random_caption_scene
from training.things import NOUNS, OBJECTS

from banatie.models.bundled import bundled_models_dir
from banatie.models.known_words import FILE


def test_a_caption_names_its_object_and_colour() -> None:
    rng = random.Random(1)
    for _ in range(500):
        scene, noun = random_caption_scene(rng)
        text = write_caption(scene, rng, noun).lower()
        if scene.object and noun:
            assert noun.lower() in text, text
        implied = noun in NOUNS and NOUNS[noun].colour == scene.colour
        if scene.colour and not implied:
            assert any(shade in text for shade in SHADES[scene.colour]), text


def test_a_scene_is_named_by_its_object_a_synonym_or_a_stand_in() -> None:
    rng = random.Random(3)
    for name in ("cat", "car", "house"):
        names = {name, *OBJECTS[name].names}
        names |= {noun for noun, stand_in in NOUNS.items() if stand_in.object == name}
        for _ in range(40):
            text = write_caption(Scene(name, None, "sea"), rng).lower()
            assert any(each.lower() in text for each in names), text


def test_a_colour_never_makes_the_name_of_another_object() -> None:
    rng = random.Random(4)
    names = {each: name for name, thing in OBJECTS.items() for each in (name, *thing.names)}
    names |= {noun: stand_in.object for noun, stand_in in NOUNS.items()}
    others = [
        (name, colour, shade)
        for name in OBJECTS
        for colour, shades in SHADES.items()
        for shade in shades
        if OBJECTS[name].dye and names.get(f"{shade} {name}", name) != name
    ]
    assert others
    for name, colour, shade in others[:5]:
        texts = [write_caption(Scene(name, colour, "sea"), rng, name) for _ in range(30)]
        assert not any(f"{shade} {name}" in text.lower() for text in texts), (name, shade)


def test_every_setting_can_be_described_without_an_object() -> None:
    rng = random.Random(2)
    assert all(write_caption(Scene(None, setting=setting), rng) for setting in SETTINGS)


def test_every_word_of_the_captions_is_one_token(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    words = [word for word in base_words() if word.isascii()]
    torn = [word for word in words if len(tokenizer.tokenize(word)) != 1]
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
