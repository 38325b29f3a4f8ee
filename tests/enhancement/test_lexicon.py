"""The lexicon's data: names, phrases, and what they must not say."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tomllib
from collections import Counter
from importlib import resources

import pytest

from banatie.enhancement.lexicon.entries import Entry, Lexicon, plural

ENTRIES = Lexicon.load().entries
THINGS = resources.files("banatie.enhancement.lexicon").joinpath("things")
FIELDS = {"names", "other", "details", "poses", "around", "light"}
LANGUAGES = {"de", "fr", "es", "it", "pt", "nl"}
LONGEST_PHRASE = 9
PHRASE = re.compile(r"[a-zA-ZÀ-ÿ][a-zA-ZÀ-ÿ ,'’-]*")


def phrases(entry: Entry) -> tuple[str, ...]:
    return entry.details + entry.poses + entry.around + entry.light


def test_there_are_enough_entries_of_every_kind() -> None:
    kinds = Counter(entry.kind for entry in ENTRIES.values())
    assert len(ENTRIES) >= 1150
    assert len(kinds) == 23
    assert min(kinds.values()) >= 8


@pytest.mark.parametrize("file", sorted(f.name for f in THINGS.iterdir()))
def test_the_files_hold_what_the_readme_of_the_lexicon_says(file: str) -> None:
    for name, fields in tomllib.loads(THINGS.joinpath(file).read_text("utf-8")).items():
        assert fields.keys() <= FIELDS, name
        assert {"names", "details"} <= fields.keys(), name
        first = fields["names"].split(", ")[0].partition("/")[0]
        assert first == name
        for words in filter(None, fields.get("other", "").split("; ")):
            assert words.partition(" ")[0] in LANGUAGES, name


def test_no_name_belongs_to_two_entries() -> None:
    seen: dict[str, str] = {}
    for file in THINGS.iterdir():
        for name, fields in tomllib.loads(file.read_text("utf-8")).items():
            for written in fields["names"].split(", "):
                one = written.partition("/")[0]
                assert one == one.lower()
                assert seen.setdefault(one, name) == name, one


def test_phrases_are_short_and_different() -> None:
    for entry in ENTRIES.values():
        assert len(entry.details) >= 3, entry.name
        assert len(set(phrases(entry))) == len(phrases(entry)), entry.name
        for phrase in phrases(entry):
            assert PHRASE.fullmatch(phrase), phrase
            assert len(phrase.split()) <= LONGEST_PHRASE, phrase
            # A phrase is no sentence.
            assert phrase.split()[0] not in {"is", "are", "has", "it", "its", "and"}, phrase


def test_a_phrase_is_not_used_up_by_many_entries() -> None:
    counted = Counter(p for e in ENTRIES.values() for p in e.details + e.poses + e.around)
    assert counted.most_common(1)[0][1] <= 6


def test_animals_have_no_clothes_and_plants_no_faces() -> None:
    for entry in ENTRIES.values():
        words = set(re.findall(r"\w+", " ".join(entry.details)))
        if entry.kind in ("animals", "birds", "sea_life", "insects"):
            assert not words & {"sleeve", "sleeves", "apron", "hat", "hands"} or entry.name in {
                "rat",
                "hamster",
            }, entry.name
        if entry.kind == "plants":
            assert not words & {"face", "smile", "nose"}, entry.name


@pytest.mark.parametrize(
    ("one", "many"),
    [("cat", "cats"), ("fox", "foxes"), ("cherry", "cherries"), ("cup of tea", "cups of tea")],
)
def test_plurals_by_rule(one: str, many: str) -> None:
    assert plural(one) == many


def test_loading_takes_no_torch_and_little_time() -> None:
    code = (
        "import sys\n"
        "from banatie.enhancement.lexicon.entries import Lexicon\n"
        "from banatie.enhancement.lexicon.reading import read\n"
        "from banatie.enhancement.lexicon.words import Words\n"
        "read('a cat', Lexicon.load(), Words.load())\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    Lexicon.load.__func__.cache_clear()  # type: ignore[attr-defined]
    before = time.process_time()
    Lexicon.load()
    assert time.process_time() - before < 0.5
