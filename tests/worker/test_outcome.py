"""Which exception becomes which outcome, and what is recorded of it."""

from __future__ import annotations

import pytest

from banatie.enhancement.enhancer import Stopped
from banatie.errors import OutOfMemory, ServiceUnavailable
from banatie.worker.claimed_rows import ClaimedRows
from banatie.worker.outcome import (
    Abandoned,
    Dropped,
    Failed,
    Finished,
    StageAborted,
    record_unfinished,
    run_stage,
)


@pytest.fixture
def rows(claims) -> ClaimedRows:
    return ClaimedRows(claims, lambda: 5)


def _raised(error: BaseException):
    def stage() -> None:
        raise error

    return run_stage([], stage)


def test_a_stage_returns_its_value():
    assert run_stage([], lambda: 3) == Finished(3)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StageAborted(), Abandoned),
        (Stopped("stopped"), Abandoned),
        (ServiceUnavailable("away"), Dropped),
        (OutOfMemory("too little memory"), Failed),
        (ValueError("/secret/path"), Failed),
    ],
)
def test_an_exception_becomes_an_outcome(error, outcome):
    assert isinstance(_raised(error), outcome)


def test_the_end_of_the_process_is_no_outcome():
    with pytest.raises(SystemExit):
        _raised(SystemExit())


def test_a_failure_gives_a_reason_and_keeps_insides_to_the_log():
    expected, unexpected = Failed(OutOfMemory("too little memory")), Failed(ValueError("/secret"))
    assert (expected.message, expected.reason) == ("too little memory", "out_of_memory")
    assert unexpected.reason == "unforeseen"
    assert unexpected.message.startswith("Unexpected error: ValueError;")


@pytest.mark.parametrize(
    ("outcome", "status", "line"),
    [
        (Abandoned(), "processing", ""),
        (Dropped(ServiceUnavailable("away")), "processing", "requeued: away"),
        (Failed(OutOfMemory("too little")), "failed", "failed: too little"),
    ],
)
def test_only_a_failure_ends_the_row(rows, submit, generations, caplog, outcome, status, line):
    made = submit(auto_enhance=False)
    rows.claim("paint")
    record_unfinished(rows, [made], outcome, 0.0)
    assert generations.find(made.id).status == status
    assert line in caplog.text


def test_a_failure_that_cannot_be_recorded_is_requeued(
    rows, submit, claims, generations, monkeypatch, caplog
):
    def unreachable(*_: object) -> bool:
        raise ServiceUnavailable("away")

    made = submit(auto_enhance=False)
    claimed = rows.claim("paint")
    with monkeypatch.context() as away:
        away.setattr(claims, "fail", unreachable)
        record_unfinished(rows, [made], Failed(OutOfMemory("too little")), 0.0)
    assert "requeued: away" in caplog.text
    assert rows.requeue_dropped() == 0
    rows.release([claimed])
    assert rows.requeue_dropped() == 1
    assert generations.find(made.id).status == "pending"
