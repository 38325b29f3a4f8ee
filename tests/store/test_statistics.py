"""The figures for whoever watches: counted with what they count, and never lost."""

from __future__ import annotations

import math

import pytest

from banatie.records import EnhancementNote, Submission
from banatie.store.database import Database
from banatie.store.statistics import BUCKETS, count_durations, read_statistics
from tests.conftest import QUEUE_SIZE

NOTE = EnhancementNote("general", "tiny", "guided", 0.2)


@pytest.fixture
def measures(database: Database):
    """The figures at a time."""
    return lambda now=0: read_statistics(database, now)


def test_nothing_has_happened_yet(measures):
    found = measures()
    assert (found.accepted, found.ended, found.oldest_waiting_seconds) == (0, {}, 0)
    assert set(found.queues.values()) == {0}
    assert {sum(d.counts.values()) for d in found.durations.values()} == {0}


def test_each_stage_of_a_generation_is_timed(claims, submit, measures):
    made = submit(now=1000)
    claims.claim("enhance", 1040)
    claims.finish_enhancement(
        made.id, prompt="p", note=NOTE, warning=None, now=1300, durations={"enhance": 0.26}
    )
    claims.claim("paint", 3800)
    found = measures().durations
    assert _counted(found["enhance_wait"]) == {0.05: 1}
    assert found["enhance_wait"].seconds == pytest.approx(0.04)
    assert _counted(found["enhance"]) == {0.5: 1}
    assert _counted(found["paint_wait"]) == {2.5: 1}
    assert found["paint_wait"].seconds == pytest.approx(2.5)
    assert _counted(found["paint"]) == {}


def test_what_is_reported_of_a_row_that_is_no_longer_held_is_not_timed(
    claims, submit, generations, project_id, measures
):
    made = submit(now=1)
    claims.claim("enhance", 1)
    generations.cancel(project_id, made.id, 2)
    claims.finish_enhancement(
        made.id, prompt="p", note=NOTE, warning=None, now=3, durations={"enhance": 0.26}
    )
    assert _counted(measures().durations["enhance"]) == {}


def test_one_that_is_taken_up_again_has_not_waited_all_that_time(claims, submit, measures):
    submit(auto_enhance=False, now=0)
    for now in (10, 90_000):
        claims.claim("paint", now)
        claims.release_dead(claims.worker_id, 9, now + 1)
    assert _counted(measures().durations["paint_wait"]) == {0.01: 1}


def test_a_clock_that_is_set_back_takes_nothing_away(claims, submit, measures):
    submit(auto_enhance=False, now=3_600_000)
    claims.claim("paint", 0)
    waited = measures(now=0).durations["paint_wait"]
    assert (waited.seconds, _counted(waited)) == (0, {BUCKETS[0]: 1})


def test_every_way_to_end_is_counted_once(claims, submit, paint, generations, project_id, measures):
    def waiting() -> str:
        return submit(auto_enhance=False, now=1).id

    def taken() -> str:
        waiting()
        return claims.claim("paint", 2).id

    waiting()
    paint("00000000-0000-4000-8000-000000000001")
    for _ in range(2):
        claims.fail(taken(), "No memory", 3, "out_of_memory")
    claims.fail(taken(), "Unforeseen", 3)
    generations.cancel(project_id, waiting(), 3)
    generations.soft_delete(project_id, waiting(), 3)
    generations.delete(project_id, waiting(), 50)
    taken()
    claims.release_dead(claims.worker_id, 0, 4)
    assert measures().ended == {
        ("success", ""): 1,
        ("failed", "out_of_memory"): 2,
        ("failed", "unforeseen"): 1,
        ("failed", "cancelled"): 3,
        ("failed", "given_up"): 1,
    }


def test_what_has_ended_is_not_counted_again(submit, paint, generations, project_id, measures):
    made = submit(auto_enhance=False)
    paint("00000000-0000-4000-8000-000000000001")
    generations.cancel(project_id, made.id, 5)
    generations.soft_delete(project_id, made.id, 6)
    generations.restore(project_id, made.id, 7)
    generations.delete(project_id, made.id, 50)
    found = measures()
    assert found.ended == {("success", ""): 1}
    assert found.accepted == 1


def test_the_queue_is_told_by_stage_and_by_what_is_worked_on(claims, submit, measures):
    submit(now=1000)
    submit(now=2000)
    submit(auto_enhance=False, now=3000)
    claims.claim("enhance", 3000)
    found = measures(now=5000)
    assert found.queues == {
        ("enhance", True): 1,
        ("enhance", False): 1,
        ("paint", False): 1,
        ("paint", True): 0,
    }
    assert found.oldest_waiting_seconds == 3.0
    assert measures(now=0).oldest_waiting_seconds == 0


def test_a_duration_falls_under_the_next_bound(database, measures):
    for seconds in (0, 0.005, 0.0051, 59, 1e9):
        with database.writing() as connection:
            count_durations(connection, {"paint": seconds})
    assert _counted(measures().durations["paint"]) == {0.005: 2, 0.01: 1, 60.0: 1, math.inf: 1}


def test_a_bound_that_is_no_longer_one_counts_under_the_next(database, measures):
    with database.writing() as connection:
        connection.execute("INSERT INTO stage_durations VALUES ('paint', 0.02, 3, 0.05)")
    assert _counted(measures().durations["paint"]) == {0.025: 3}


def test_a_submission_carries_its_request(generations, project_id):
    made = generations.submit(
        project_id, Submission("a cat"), 1, queue_size=QUEUE_SIZE, request_id="r1"
    ).generation
    assert generations.find(made.id).request_id == made.request_id == "r1"


def _counted(durations) -> dict[float, int]:
    return {bound: number for bound, number in durations.counts.items() if number}
