"""The enhancement stage: one prompt after the other, and what to do when the language model hangs.

A prompt that cannot be enhanced is painted as it is, with a warning; one whose row could not be
reached waits and is enhanced again. How prompts are written is not known here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from banatie.enhancement.enhancer import Enhancement
from banatie.errors import OutOfMemory
from banatie.painting.prompt_weights import escape, has_weights, read_prompt
from banatie.records import EnhancementNote, Generation
from banatie.worker.claimed_rows import ClaimedRows
from banatie.worker.outcome import Failed, Finished, log_unfinished, run_stage
from banatie.worker.placement import ModelPlacement

logger = logging.getLogger(__name__)

HUNG_SECONDS = 10.0
"""The language model checks its time limit between tokens; past twice that and this, it hangs."""

NO_MODEL = "No language model is loaded; the original prompt is used."
FAILED = "The language model failed on this prompt; the original prompt is used."
WEIGHTED = "The prompt has weights or a BREAK and is used as it is: it was not enhanced."
HUNG = "The language model hung on this prompt; the original prompt is used."


@dataclass(frozen=True)
class _Running:
    """The prompt that the language model is working on."""

    generation: Generation
    deadline: float
    """When it counts as hung, by `time.monotonic`."""


class EnhanceStage:
    """Enhances the prompts that wait."""

    def __init__(
        self,
        rows: ClaimedRows,
        placement: ModelPlacement,
        time_limit: float,
        notify_painter: Callable[[str], None],
    ) -> None:
        """`time_limit` is in seconds; `notify_painter` gets the id of each enhanced row."""
        self._rows = rows
        self._placement = placement
        self._time_limit = time_limit
        self._notify_painter = notify_painter
        # Held while a thread decides what became of the running prompt: its own, or the watcher.
        self._deciding = threading.Lock()
        self._running: _Running | None = None
        self._is_hung = False

    def run_waiting(self, _id: str = "") -> None:
        """Enhance every row that waits for it, oldest first."""
        while generation := self._rows.claim("enhance"):
            try:
                self._enhance_row(generation)
            finally:
                self._rows.release([generation])

    def recover_hung(self) -> bool:
        """Hand the row on for painting whose prompt the language model hangs on.

        True if there was one: its thread is lost, and the process has to end. For another thread
        than that of `run_waiting`. Raises ServiceUnavailable; call it again then.
        """
        running = self._running
        if running is None or time.monotonic() < running.deadline:
            return False
        with self._deciding:
            if self._running is not running:
                # It has come back in the meantime.
                return False
            self._rows.claims.finish_enhancement(
                running.generation.id,
                prompt=running.generation.original_prompt,
                note=None,
                warning=HUNG,
                now=self._rows.clock(),
            )
            self._is_hung = True
            return True

    def _enhance_row(self, generation: Generation) -> None:
        started = time.monotonic()
        if generation.prompt_syntax == "webui" and has_weights(generation.original_prompt):
            finish = partial(self._finish, generation, None, WEIGHTED, 0.0)
            recorded = run_stage([generation], finish)
            if not isinstance(recorded, Finished):
                log_unfinished(generation, recorded, started)
            return
        outcome = run_stage([generation], partial(self._enhance, generation))
        seconds = time.monotonic() - started
        with self._deciding:
            self._running = None
            if self._is_hung:
                return
        if isinstance(outcome, Finished):
            enhancement = outcome.value
            warning = enhancement.warning if enhancement else NO_MODEL
        else:
            log_unfinished(generation, outcome, started)
            if not isinstance(outcome, Failed):
                return
            enhancement, warning = None, FAILED
        finish = partial(self._finish, generation, enhancement, warning, seconds)
        recorded = run_stage([generation], finish)
        if not isinstance(recorded, Finished):
            log_unfinished(generation, recorded, started)

    def _enhance(self, generation: Generation) -> Enhancement | None:
        """The enhancement; None without a language model."""
        with self._placement.enhancing():
            logger.info("enhancing")
            deadline = time.monotonic() + 2 * self._time_limit + HUNG_SECONDS
            self._running = _Running(generation, deadline)
            while (enhancer := self._placement.enhancer) is not None:
                try:
                    return enhancer.enhance(
                        _words(generation),
                        generation.template,
                        seed=generation.seed,
                        count_tokens=self._placement.painter.count_tokens,
                        time_limit=self._time_limit,
                        stop=lambda: not self._rows.is_wanted(generation),
                    )
                except OutOfMemory:
                    if not self._placement.move_language_model_to_cpu():
                        raise
        return None

    def _finish(
        self,
        generation: Generation,
        enhancement: Enhancement | None,
        warning: str | None,
        seconds: float,
    ) -> None:
        """Record the enhancement, or the warning that tells why there is none."""
        prompt, note = generation.original_prompt, None
        if enhancement is not None and warning is None:
            is_plain = generation.prompt_syntax == "plain"
            prompt = enhancement.text if is_plain else escape(enhancement.text)
            note = EnhancementNote(
                enhancement.template, enhancement.model, enhancement.mode, enhancement.seconds
            )
        is_held = self._rows.claims.finish_enhancement(
            generation.id,
            prompt=prompt,
            note=note,
            warning=warning,
            now=self._rows.clock(),
            durations={"enhance": seconds},
        )
        if is_held:
            logger.info(warning or "enhanced", extra={"seconds": round(seconds, 3)})
            self._notify_painter(generation.id)


def _words(generation: Generation) -> str:
    """The prompt without escapes, where there is nothing else of its syntax in it."""
    prompt = read_prompt(generation.original_prompt, generation.prompt_syntax)
    return prompt if isinstance(prompt, str) else generation.original_prompt
