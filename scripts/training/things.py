"""The things that the embedded model is shown, and the nouns that each of them stands in for.

`objects.toml` has the objects in the order of the trained weights, `nouns.toml` the nouns of
prompts. Knows no pictures: `icons` draws an object.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training.scene_catalog import COLOURS

OBJECTS_FILE = Path(__file__).with_name("objects.toml")
NOUNS_FILE = Path(__file__).with_name("nouns.toml")

GROUPS = (
    "animal", "person", "face", "vehicle", "building", "food", "plant", "thing", "clothing",
    "sport", "instrument", "nature", "body", "symbol",
)  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """An object: its name, its icon, other names that mean just it, its group, and whether
    recolouring it makes sense."""

    name: str
    icon: str
    names: tuple[str, ...]
    group: str
    dye: bool


@dataclass(frozen=True)
class StandIn:
    """The object that shows a noun best, and the colour it needs for that, or None."""

    object: str
    colour: str | None = None


@cache
def load_things(path: Path = OBJECTS_FILE) -> dict[str, Thing]:
    """Return the objects by name, in the order of the file.

    Raises ValueError where an entry has a missing, unknown or wrong value, or a name is given
    twice.
    """
    things: dict[str, Thing] = {}
    owners: dict[str, str] = {}
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    for name, entry in entries.items():
        try:
            thing = Thing(name=name, **{**entry, "names": tuple(entry["names"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path.name}: {name}: {error}") from error
        if thing.group not in GROUPS:
            raise ValueError(f"{path.name}: {name}: unknown group {thing.group!r}")
        for known in (name, *thing.names):
            if known in owners:
                raise ValueError(f"{path.name}: {known!r} names {owners[known]!r} and {name!r}")
            owners[known] = name
        things[name] = thing
    return things


@cache
def load_nouns(path: Path = NOUNS_FILE, objects: Path = OBJECTS_FILE) -> dict[str, StandIn]:
    """Return the object that stands in for each noun.

    Raises ValueError where a noun is an object's own name already, or its object or colour is
    unknown.
    """
    things = load_things(objects)
    taken = {name for thing in things.values() for name in (thing.name, *thing.names)}
    nouns: dict[str, StandIn] = {}
    for noun, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
        values = {"object": entry} if isinstance(entry, str) else entry
        try:
            stand_in = StandIn(**values)
        except TypeError as error:
            raise ValueError(f"{path.name}: {noun}: {error}") from error
        if noun in taken:
            raise ValueError(f"{path.name}: {noun!r} is an object's own name")
        if stand_in.object not in things:
            raise ValueError(f"{path.name}: {noun}: unknown object {stand_in.object!r}")
        if stand_in.colour is not None and stand_in.colour not in COLOURS:
            raise ValueError(f"{path.name}: {noun}: unknown colour {stand_in.colour!r}")
        if stand_in.colour is not None and not things[stand_in.object].dye:
            raise ValueError(f"{path.name}: {noun}: {stand_in.object!r} takes no colour")
        nouns[noun] = stand_in
    return nouns


OBJECTS = load_things()
NOUNS = load_nouns()
