"""The enhancement templates and few-shot examples, read from the TOML files of this package.

Knows no model and imports no torch, so that the web process may list the templates too.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from banatie.records import TEMPLATE_NAMES

Details = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Visible details of a subject, by kind (animals, people, vehicles …) and by the words for it."""


@dataclass(frozen=True)
class Example:
    """A few-shot example of the guided mode: a subject, and the phrases that are added to it."""

    subject: str
    adds: str


@dataclass(frozen=True)
class FewShotExample:
    """A few-shot example of the free mode: a prompt as a user types it, and the enhanced text."""

    prompt: str
    answer: str
    """Without a final full stop."""


@dataclass(frozen=True)
class Phrase:
    """A phrase of a template, with the word classes that it requires and those that exclude it."""

    text: str
    needs: frozenset[str] = frozenset()
    """If not empty, at least one of these classes must be in the prompt."""
    not_with: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Slot:
    """One aspect of a picture, of which at most one phrase is added: light, lens, palette …"""

    name: str
    phrases: tuple[Phrase, ...]
    stem: Phrase | None = None
    """The beginning of a phrase of this slot, for a language model to complete."""


@dataclass(frozen=True)
class Template:
    """One way to enrich a prompt."""

    name: str
    title: str
    summary: str
    instruction: str
    medium: str
    """How the text opens: `<medium> of <the user's words>`."""
    manner: str
    """The phrase that is added instead when the prompt names a medium itself."""
    examples: tuple[Example, ...]
    slots: tuple[Slot, ...]
    details_shown: int
    """How many known details of the subject to add."""
    style_slots: tuple[str, ...]
    """The slots whose phrases belong to the style, for texts that the lexicon composes."""
    style_shown: int
    """How many of them to add to such a text."""
    details: Details


def load_templates() -> Mapping[str, Template]:
    """All templates by name, in display order."""
    folder = resources.files(__name__)
    details = _details(tomllib.loads((folder / "details.toml").read_text("utf-8")))
    return {
        name: _template(tomllib.loads((folder / f"{name}.toml").read_text("utf-8")), details)
        for name in TEMPLATE_NAMES
    }


def load_few_shot_examples() -> Mapping[str, tuple[FewShotExample, ...]]:
    """The few-shot examples by template, without the held-out ones that benchmarks use."""
    folder = resources.files("banatie.enhancement") / "examples"
    return {
        name: tuple(
            FewShotExample(entry["prompt"], entry["answer"])
            for entry in tomllib.loads((folder / f"{name}.toml").read_text("utf-8"))["example"]
            if not entry["held_out"]
        )
        for name in TEMPLATE_NAMES
    }


def _details(kinds: dict[str, dict[str, str]]) -> Details:
    return {
        kind: {
            word.strip(): tuple(phrase.strip() for phrase in phrases.split(";"))
            for words, phrases in entries.items()
            for word in words.split(",")
        }
        for kind, entries in kinds.items()
    }


def _template(entry: dict[str, Any], details: Details) -> Template:
    examples = tuple(Example(**example) for example in entry.pop("examples"))
    slots = tuple(
        Slot(
            slot["name"],
            tuple(map(_phrase, slot["phrases"])),
            _phrase(slot["stem"]) if "stem" in slot else None,
        )
        for slot in entry.pop("slots")
    )
    style_slots = tuple(entry.pop("style_slots"))
    return Template(
        **entry, style_slots=style_slots, examples=examples, slots=slots, details=details
    )


def _phrase(entry: str | dict[str, Any]) -> Phrase:
    if isinstance(entry, str):
        return Phrase(entry)
    needs, not_with = frozenset(entry.get("needs", ())), frozenset(entry.get("not", ()))
    return Phrase(entry["text"], needs, not_with)
