"""The enhancement templates: what each adds to a prompt, as data in the files beside this one.

A template is read and checked here and used in `phrasing` and `enhancer`. Nothing here knows a
model, and nothing imports torch, so the web process may list the templates too.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from banatie.records import TEMPLATE_NAMES


@dataclass(frozen=True)
class Example:
    """A worked example: what a user asks for, and the phrases that a good enhancement adds."""

    subject: str
    adds: str


@dataclass(frozen=True)
class Phrase:
    """A phrase of the style, with the word classes that it asks for and those that rule it out."""

    text: str
    needs: frozenset[str] = frozenset()
    """At least one of these must be in the user's words, where there are any."""
    not_with: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Slot:
    """One thing to be said of a picture, once: the light, the lens, the palette …"""

    name: str
    phrases: tuple[Phrase, ...]
    stem: Phrase | None = None
    """How a phrase of this slot may begin, for a language model to finish it."""


@dataclass(frozen=True)
class Template:
    """One way to enrich a prompt."""

    name: str
    title: str
    summary: str
    instruction: str
    medium: str
    """What the text opens with: `<medium> of <the user's words>`."""
    manner: str
    """What is added instead when the user has named a medium already."""
    examples: tuple[Example, ...]
    slots: tuple[Slot, ...]


def load_templates() -> Mapping[str, Template]:
    """All templates by name, in the order in which they are shown."""
    folder = resources.files(__name__)
    return {
        name: _template(tomllib.loads((folder / f"{name}.toml").read_text("utf-8")))
        for name in TEMPLATE_NAMES
    }


def _template(entry: dict) -> Template:
    examples = tuple(Example(**example) for example in entry.pop("examples"))
    slots = tuple(
        Slot(
            slot["name"],
            tuple(map(_phrase, slot["phrases"])),
            _phrase(slot["stem"]) if "stem" in slot else None,
        )
        for slot in entry.pop("slots")
    )
    return Template(**entry, examples=examples, slots=slots)


def _phrase(entry: str | dict) -> Phrase:
    if isinstance(entry, str):
        return Phrase(entry)
    needs, not_with = frozenset(entry.get("needs", ())), frozenset(entry.get("not", ()))
    return Phrase(entry["text"], needs, not_with)
