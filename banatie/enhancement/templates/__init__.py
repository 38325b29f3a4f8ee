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

Details = Mapping[str, Mapping[str, tuple[str, ...]]]
"""By kind (animals, people, vehicles …): what can be seen of a thing, by the words for it."""


@dataclass(frozen=True)
class Example:
    """A worked example: what a user asks for, and the phrases that a good enhancement adds."""

    subject: str
    adds: str


@dataclass(frozen=True)
class FewShotExample:
    """A prompt as a user types it, with the whole text that a good writer makes of it."""

    prompt: str
    answer: str
    """Without a full stop."""


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
    details_shown: int
    """How many details of the subject to tell, where they are known."""
    details: Details


def load_templates() -> Mapping[str, Template]:
    """All templates by name, in the order in which they are shown."""
    folder = resources.files(__name__)
    details = _details(tomllib.loads((folder / "details.toml").read_text("utf-8")))
    return {
        name: _template(tomllib.loads((folder / f"{name}.toml").read_text("utf-8")), details)
        for name in TEMPLATE_NAMES
    }


def load_few_shot_examples() -> Mapping[str, tuple[FewShotExample, ...]]:
    """The worked examples by template, without those that are kept aside to measure with."""
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


def _template(entry: dict, details: Details) -> Template:
    examples = tuple(Example(**example) for example in entry.pop("examples"))
    slots = tuple(
        Slot(
            slot["name"],
            tuple(map(_phrase, slot["phrases"])),
            _phrase(slot["stem"]) if "stem" in slot else None,
        )
        for slot in entry.pop("slots")
    )
    return Template(**entry, examples=examples, slots=slots, details=details)


def _phrase(entry: str | dict) -> Phrase:
    if isinstance(entry, str):
        return Phrase(entry)
    needs, not_with = frozenset(entry.get("needs", ())), frozenset(entry.get("not", ()))
    return Phrase(entry["text"], needs, not_with)
