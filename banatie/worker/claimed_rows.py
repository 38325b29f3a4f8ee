"""The rows that this process has claimed, and which of them it still works on.

A row is claimed in the database before any work on it starts. A claimed row that nobody works on
was dropped, because the database could not be written when the work ended, and is requeued. Knows
neither models nor files.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable

from banatie.errors import ServiceUnavailable
from banatie.jobs import Stage
from banatie.records import Generation
from banatie.store.claims import Claims


class ClaimedRows:
    """Claims rows for the stages; every row it gives out is to be released when its work ends."""

    def __init__(self, claims: Claims, clock: Callable[[], int]) -> None:
        self.claims = claims
        self.clock = clock
        """The time in milliseconds since 1970, for what is written into the rows."""
        self.stopping = threading.Event()
        """Set when the worker stops: no row is claimed any more."""
        self.draining = threading.Event()
        """Set when the worker is about to stop: no row is claimed, those in hand are finished."""
        # Held from the claim in the database until the row is counted as in hand.
        self._claiming = threading.Lock()
        self._counting = threading.Lock()
        self._users: Counter[str] = Counter()

    def claim(self, stage: Stage) -> Generation | None:
        """Claim the row that has waited longest for this stage; None if there is none."""
        with self._claiming:
            if self.stopping.is_set() or self.draining.is_set() or not self.claims.waiting(stage):
                return None
            generation = self.claims.claim(stage, self.clock())
            if generation is not None:
                self.retain([generation])
            return generation

    def claim_batch(self, size: int) -> list[Generation]:
        """Claim up to `size` rows that can be painted together; empty if none waits."""
        first = self.claim("paint")
        if first is None:
            return []
        if size == 1:
            return [first]
        others: list[Generation] = []
        # The first is claimed already: if the database cannot be written now, it is painted alone.
        with self._claiming, contextlib.suppress(ServiceUnavailable):
            others = self.claims.claim_like(first, size - 1, self.clock())
            self.retain(others)
        return [first, *others]

    def is_wanted(self, generation: Generation) -> bool:
        """Whether to go on with this row: not once it is cancelled or deleted, or at a stop."""
        return not self.stopping.is_set() and self.claims.holds(generation.id)

    def retain(self, generations: Iterable[Generation]) -> None:
        """Count one more user of each of these rows."""
        with self._counting:
            self._users.update(each.id for each in generations)

    def release(self, generations: Iterable[Generation]) -> None:
        """Count one user less of each; a row without any is dropped if it is still claimed."""
        with self._counting:
            self._users.subtract(each.id for each in generations)
            # Without those that have reached zero.
            self._users = +self._users

    def are_in_hand(self) -> bool:
        """Whether any row is worked on, or is being claimed."""
        with self._claiming, self._counting:
            return bool(self._users)

    def requeue_dropped(self) -> int:
        """Requeue the dropped rows; how many there were. Raises ServiceUnavailable."""
        with self._claiming:
            with self._counting:
                in_hand = set(self._users)
            return self.claims.release_claims(self.clock(), keep=in_hand)
