"""What became of a job: the one place where an exception turns into a value.

A stage (starting, enhancing, painting, saving) is a function that raises when it cannot go on.
`run_stage` calls it and returns the outcome, which the caller records in the row. Knows no stage.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from banatie.enhancement.enhancer import Stopped
from banatie.errors import BanatieError, ServiceUnavailable
from banatie.logs import log_context
from banatie.records import Generation
from banatie.worker.claimed_rows import ClaimedRows

logger = logging.getLogger(__name__)

T = TypeVar("T")


class StageAborted(Exception):
    """Raised inside a stage: its rows are no longer claimed, or the worker stops."""


@dataclass(frozen=True)
class Finished(Generic[T]):
    """The stage has done its work."""

    value: T


@dataclass(frozen=True)
class Abandoned:
    """The row was cancelled or deleted, or the worker stops: there is nothing to record."""


@dataclass(frozen=True)
class Dropped:
    """The database cannot be reached: the row stays claimed, and is requeued by housekeeping."""

    error: ServiceUnavailable


@dataclass(frozen=True)
class Failed:
    """The job cannot be done."""

    error: Exception

    @property
    def message(self) -> str:
        """Why, for the person who asked for the picture, without internal details."""
        if isinstance(self.error, BanatieError):
            return str(self.error)
        return f"Unexpected error: {type(self.error).__name__}; the worker's log has the traceback"

    @property
    def reason(self) -> str:
        """Why, in a word, for the metrics."""
        return self.error.code.lower() if isinstance(self.error, BanatieError) else "unforeseen"


Unfinished = Abandoned | Dropped | Failed
Outcome = Finished[T] | Abandoned | Dropped | Failed


def run_stage(generations: Sequence[Generation], stage: Callable[[], T]) -> Outcome[T]:
    """Call `stage`, which works on these generations, and return what became of it.

    If it is a single one, all that is logged meanwhile names it.
    """
    alone = generations[0] if len(generations) == 1 else None
    with log_context(
        generation_id=alone.id if alone else None, request_id=alone.request_id if alone else None
    ):
        try:
            return Finished(stage())
        except (StageAborted, Stopped):
            return Abandoned()
        except ServiceUnavailable as error:
            return Dropped(error)
        except Exception as error:  # noqa: BLE001
            return Failed(error)


def log_unfinished(generation: Generation, outcome: Unfinished, started: float) -> None:
    """Log why a stage that began at `started` (`time.monotonic`) did not finish this job."""
    seconds = seconds_since(started)
    with log_context(generation_id=generation.id, request_id=generation.request_id):
        match outcome:
            case Abandoned():
                logger.info("abandoned", extra=seconds)
            case Dropped(error):
                logger.warning("not recorded, to be requeued: %s", error, extra=seconds)
            case Failed(error):
                traceback = None if isinstance(error, BanatieError) else error
                logger.error("failed: %s", outcome.message, exc_info=traceback, extra=seconds)


def record_unfinished(
    rows: ClaimedRows, generations: Sequence[Generation], outcome: Unfinished, started: float
) -> None:
    """Log what became of these jobs, and if they have failed, end their rows."""
    for generation in generations:
        log_unfinished(generation, outcome, started)
        if isinstance(outcome, Failed):
            fail = partial(
                rows.claims.fail, generation.id, outcome.message, rows.clock(), outcome.reason
            )
            recorded = run_stage([generation], fail)
            if not isinstance(recorded, Finished):
                log_unfinished(generation, recorded, started)


def seconds_since(started: float) -> dict[str, float]:
    """The field of a log line that says how long something has taken."""
    return {"seconds": round(time.monotonic() - started, 3)}
