"""Reading prompts, against the readings written down in `data/readings.txt`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from banatie.enhancement.lexicon.entries import Lexicon
from banatie.enhancement.lexicon.reading import read
from banatie.enhancement.lexicon.said import Reading
from banatie.enhancement.lexicon.spelling import corrected
from banatie.enhancement.lexicon.words import Words
from banatie.enhancement.prompt import parse_prompt
from banatie.enhancement.vocabulary import Vocabulary

READINGS = Path(__file__).with_name("data") / "readings.txt"
FIELDS = {
    "count": "counts",
    "colour": "colours",
    "material": "materials",
    "age": "ages",
    "action": "actions",
    "place": "places",
    "time": "times",
    "weather": "weather",
    "mood": "moods",
    "without": "without",
    "role": "roles",
    "name": "names",
    "quote": "quotes",
    "camera": "camera",
}
MANY = {"many": "99"}
RIGHT_BAR = 0.97


def written_readings() -> Iterator[tuple[str, list[str], dict[str, list[str]]]]:
    """Each prompt with its subjects and the other fields that are not empty."""
    for line in READINGS.read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            prompt, subjects, said = (part.strip() for part in line.split("|"))
            pairs = (part.split("=") for part in said.split(";") if part.strip())
            fields = {name.strip(): values.split(",") for name, values in pairs}
            yield (
                prompt,
                [] if subjects == "-" else subjects.split(", "),
                {
                    name: [MANY.get(value.strip(), value.strip()) for value in values]
                    for name, values in fields.items()
                },
            )


def reading_of(prompt: str) -> Reading:
    text = parse_prompt(prompt, Vocabulary.load()).text
    return read(text, Lexicon.load(), Words.load())


@pytest.fixture(scope="module")
def readings() -> list[tuple[str, list[str], dict[str, list[str]], Reading]]:
    vocabulary, lexicon, words = Vocabulary.load(), Lexicon.load(), Words.load()
    return [
        (prompt, subjects, fields, read(parse_prompt(prompt, vocabulary).text, lexicon, words))
        for prompt, subjects, fields in written_readings()
    ]


def test_no_thing_is_found_that_is_not_there(readings) -> None:
    wrong = {}
    for prompt, subjects, _, reading in readings:
        if extra := {thing.entry.name for thing in reading.subjects} - set(subjects):
            wrong[prompt] = extra
    assert not wrong


def test_the_readings_are_right(readings) -> None:
    assert len(readings) > 250
    wrong = {}
    for prompt, subjects, fields, reading in readings:
        found = {name: [str(v) for v in getattr(reading, f)] for name, f in FIELDS.items()}
        found = {name: values for name, values in found.items() if values}
        names = [thing.entry.name for thing in reading.subjects]
        if names != subjects or found != fields:
            wrong[prompt] = (names, found)
    assert len(wrong) <= (1 - RIGHT_BAR) * len(readings), wrong


@pytest.mark.parametrize(
    ("prompt", "setting"),
    [
        ("a fox in a forest", ["forest"]),
        ("eine Katze auf dem Sofa", ["sofa"]),
        ("a fox in a forest clearing", []),
    ],
)
def test_known_places_are_settings(prompt: str, setting: list[str]) -> None:
    assert [entry.name for entry in reading_of(prompt).settings] == setting


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("elepant", "elephant"),
        ("hospitla", "hospital"),
        ("buttterfly", "butterfly"),
        ("elephant", None),
        ("towel", None),
        ("cta", None),
        ("catehdral", "cathedral"),
    ],
)
def test_one_typing_error_is_corrected(written: str, meant: str | None) -> None:
    found = corrected(written, Lexicon.load(), Words.load())
    assert found == meant or (found == written == "elephant")
