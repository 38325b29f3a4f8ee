"""The catalogue of objects and nouns holds together, and each icon exists.

The latter is tested where `BANATIE_ICONS` names the icon package's `icons.json`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from training.things import GROUPS, load_nouns, load_things


def test_there_are_a_thousand_objects_of_all_groups() -> None:
    things = load_things().values()
    assert len(things) >= 1000
    assert {thing.group for thing in things} == set(GROUPS)


def test_no_icon_is_used_twice() -> None:
    icons = [thing.icon for thing in load_things().values()]
    assert len(icons) == len(set(icons))


def test_faces_keep_their_colours() -> None:
    assert not any(thing.dye for thing in load_things().values() if thing.group == "face")


def test_at_least_4000_nouns_have_a_stand_in() -> None:
    assert len(load_nouns()) >= 4000


def test_names_are_lower_case_words() -> None:
    names = [name for thing in load_things().values() for name in (thing.name, *thing.names)]
    wrong = [
        name
        for name in (*names, *load_nouns())
        if not re.fullmatch(r"[^\W_]+(?:[ '-]+[^\W_]+)*'?", name) or name != name.lower()
    ]
    assert wrong == []


@pytest.mark.skipif("BANATIE_ICONS" not in os.environ, reason="needs the icon file's path")
def test_every_icon_is_in_the_package() -> None:
    known = json.loads(Path(os.environ["BANATIE_ICONS"]).read_text())["icons"]
    assert [thing.name for thing in load_things().values() if thing.icon not in known] == []


@pytest.mark.parametrize(
    ("nouns", "reason"),
    [
        ('cat = "dog"', "own name"),
        ('sparrow = "birdie"', "unknown object"),
        ('raven = { object = "bird", colour = "mauve" }', "unknown colour"),
        ('grief = { object = "crying face", colour = "red" }', "takes no colour"),
        ('raven = { object = "bird", color = "black" }', "color"),
    ],
)
def test_a_wrong_noun_is_refused(tmp_path: Path, nouns: str, reason: str) -> None:
    path = tmp_path / "nouns.toml"
    path.write_text(nouns)
    with pytest.raises(ValueError, match=reason):
        load_nouns(path)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ('icon = "cat", names = [], group = "pet", dye = true', "unknown group"),
        ('icon = "cat", names = ["cat"], group = "animal", dye = true', "names"),
        ('icon = "cat", names = [], group = "animal"', "dye"),
        ('icon = "cat", group = "animal", dye = true', "names"),
    ],
)
def test_a_wrong_object_is_refused(tmp_path: Path, entry: str, reason: str) -> None:
    path = tmp_path / "objects.toml"
    path.write_text(f"cat = {{ {entry} }}")
    with pytest.raises(ValueError, match=reason):
        load_things(path)
