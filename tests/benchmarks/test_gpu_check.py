"""The verdicts and the table of `scripts/check-gpu`."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scripts.gpu_check.context import describe_picture
from scripts.gpu_check.results import Recorder, has_failed, read_results, wrong_unless
from scripts.gpu_check.table import LONGEST_CELL, cell, markdown


def test_a_picture_of_one_colour_is_wrong() -> None:
    assert has_failed(describe_picture(Image.new("RGB", (8, 8))))
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    assert not has_failed(describe_picture(Image.fromarray(noise)))


def test_each_expectation_that_is_not_met_is_named() -> None:
    assert wrong_unless((True, "a"), (False, "b"), (False, "c")) == {"wrong": "b; c"}
    assert wrong_unless((True, "a")) == {}


def test_a_failed_step_is_recorded_and_the_next_is_done(tmp_path) -> None:
    recorder = Recorder(tmp_path / "results.jsonl", "right", 1e12, "cpu")
    assert recorder.step("broken", lambda: 1 / 0) is None
    assert recorder.step("model", object) is not None
    Recorder(tmp_path / "results.jsonl", "right", 0.0, "cpu").step("late", object)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"group": "right", "st')
    broken, model, late = read_results(tmp_path / "results.jsonl")
    assert [has_failed(line) for line in (broken, model, late)] == [True, False, False]
    assert cell(broken) == "**FAILED**: ZeroDivisionError: division by zero"
    assert set(model) == {"group", "step", "seconds", "took"}
    assert cell(late) == "skipped no time left"


@pytest.mark.parametrize(
    ("figures", "text"),
    [
        ({"seconds": 2.7709, "peak GB": 8.97}, "2.77 s, peak 8.97 GB"),
        ({"seconds": 0.14452, "TFLOP/s": 73}, "145 ms, TFLOP/s 73"),
        ({"seconds a picture": 1.018}, "1.02 s a picture"),
        ({"same": True, "to the first step": 0.125}, "same: yes, 125 ms to the first step"),
        ({"same": False, "wrong": "they differ"}, "**WRONG**: they differ, same: no"),
        ({"text": "a | b\nc"}, "text a / b c"),
    ],
)
def test_a_cell_reads_as_words(figures: dict, text: str) -> None:
    assert cell({"group": "fast", "step": "s", "took": 1.0, **figures}) == text


def test_a_long_cell_is_cut() -> None:
    assert len(cell({"error": "x" * 500})) == LONGEST_CELL


def test_the_column_is_named_after_the_card() -> None:
    machine = {"group": "model", "step": "machine", "card": "NVIDIA H100", "torch": "2.11"}
    assert markdown([machine]).splitlines() == [
        "| | measured | NVIDIA H100 |",
        "|---|---|---|",
        "| model | machine | torch 2.11 |",
    ]
