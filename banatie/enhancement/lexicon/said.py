"""What a prompt says, as far as it could be read. Knows no rule of reading."""

from __future__ import annotations

from dataclasses import dataclass, field

from banatie.enhancement.lexicon.entries import Entry


@dataclass(frozen=True)
class Thing:
    """A thing that the prompt names and the lexicon knows."""

    entry: Entry
    said: str
    """The user's word for it."""
    count: int = 1


@dataclass
class Reading:
    """What a prompt says; words are in lower case as the user wrote them."""

    subjects: list[Thing] = field(default_factory=list)
    """What the picture is of; empty where the first of them is not known."""
    settings: list[Entry] = field(default_factory=list)
    """The known places among `places`."""
    counts: list[int] = field(default_factory=list)
    colours: list[str] = field(default_factory=list)
    materials: list[str] = field(default_factory=list)
    ages: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    times: list[str] = field(default_factory=list)
    weather: list[str] = field(default_factory=list)
    moods: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    """What the first thing is dressed up as."""
    names: list[str] = field(default_factory=list)
    quotes: list[str] = field(default_factory=list)
    camera: list[str] = field(default_factory=list)
    foreign: bool = False
    """Whether the prompt is in another language than English."""
