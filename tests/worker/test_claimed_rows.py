"""Which rows are claimed, and which of them count as dropped."""

from __future__ import annotations

import pytest

from banatie.worker.claimed_rows import ClaimedRows


@pytest.fixture
def rows(claims) -> ClaimedRows:
    return ClaimedRows(claims, lambda: 5)


def test_a_row_is_dropped_once_its_last_user_releases_it(rows, submit, generations):
    made = submit(auto_enhance=False)
    [claimed] = rows.claim_batch(3)
    rows.retain([claimed])
    rows.release([claimed])
    assert rows.requeue_dropped() == 0
    rows.release([claimed])
    assert rows.requeue_dropped() == 1
    assert generations.find(made.id).status == "pending"


def test_a_row_that_has_ended_is_not_dropped(rows, submit, claims):
    submit(auto_enhance=False)
    claimed = rows.claim("paint")
    claims.fail(claimed.id, "on purpose", 5)
    rows.release([claimed])
    assert rows.requeue_dropped() == 0


def test_a_worker_that_stops_claims_nothing_and_wants_nothing(rows, submit):
    submit(auto_enhance=False)
    submit(auto_enhance=False)
    claimed = rows.claim("paint")
    assert rows.is_wanted(claimed)
    rows.stopping.set()
    assert not rows.is_wanted(claimed)
    assert rows.claim_batch(2) == []


def test_a_cancelled_row_is_not_wanted(rows, submit, generations, project_id):
    submit(auto_enhance=False)
    claimed = rows.claim("paint")
    generations.cancel(project_id, claimed.id, 5)
    assert not rows.is_wanted(claimed)
