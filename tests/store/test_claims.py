"""The worker's side of the generations' rows."""

from __future__ import annotations

import threading

import pytest

from banatie.records import EnhancementNote, Image, LoraUse, Submission
from banatie.store.claims import Claims

NOTE = EnhancementNote("general", "small", "guided", 0.5)


def finish(claims: Claims, generation_id: str, now: int = 3) -> bool:
    return claims.finish_enhancement(
        generation_id, prompt="A cat, sunlit", note=NOTE, warning=None, now=now
    )


def an_image(project_id: str) -> Image:
    return Image("i", project_id, "k", "image/png", 1, 1, 1, 1)


def test_the_oldest_row_is_taken_first_and_only_once(submit, claims):
    first, second = submit(now=9), submit(now=1)
    assert claims.claim("enhance", 10).id == first.id
    assert claims.claim("enhance", 10).id == second.id
    assert claims.claim("enhance", 10) is None


def test_alike_rows_are_taken_along(submit, claims):
    first = submit(auto_enhance=False, seed=1)
    other = submit(auto_enhance=False, aspect_ratio="16:9")
    alike = [submit(auto_enhance=False, seed=seed) for seed in (2, 3)]
    submit("still to be enhanced")
    submit(auto_enhance=False, steps=4)
    submit(auto_enhance=False, guidance_scale=1.0)
    submit(auto_enhance=False, loras=(LoraUse("ink", 1.0),))
    last = submit(auto_enhance=False, seed=4)
    taken = claims.claim("paint", 10)
    assert taken.id == first.id
    assert [each.id for each in claims.claim_like(taken, 2, 10)] == [each.id for each in alike]
    assert [each.id for each in claims.claim_like(taken, 2, 10)] == [last.id]
    assert claims.claim("paint", 10).id == other.id
    assert claims.claim_like(other, 2, 10) == []


def test_a_row_that_was_held_in_a_crash_has_no_company(submit, claims, database):
    clean, suspicious, other = (submit(auto_enhance=False) for _ in range(3))
    claims.claim("paint", 2)
    other_worker = Claims(database, "worker-2")
    assert other_worker.claim("paint", 2).id == suspicious.id
    claims.release_dead("worker-2", 3, 3)
    claims.release_claims(3)
    taken = claims.claim("paint", 4)
    assert taken.id == clean.id
    assert [each.id for each in claims.claim_like(taken, 4, 4)] == [other.id]
    for each in (clean, other):
        claims.fail(each.id, "over", 5)
    submit(auto_enhance=False)
    taken = claims.claim("paint", 6)
    assert taken.id == suspicious.id
    assert claims.claim_like(taken, 4, 6) == []


def test_many_threads_never_take_the_same_row(submit, database):
    wanted = {submit(auto_enhance=False).id for _ in range(40)}
    taken = []

    def take_all(name: str) -> None:
        claims = Claims(database, name)
        while generation := claims.claim("paint", 2):
            taken.append(generation.id)
        database.close()

    threads = [threading.Thread(target=take_all, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(wanted)


def test_enhancing_keeps_the_status_and_painting_changes_it(submit, claims, generations):
    made = submit()
    assert claims.claim("enhance", 2).status == "pending"
    assert finish(claims, made.id)
    enhanced = generations.find(made.id)
    assert (enhanced.status, enhanced.stage, enhanced.enhanced_at) == ("pending", "paint", 3)
    assert (enhanced.prompt, enhanced.original_prompt) == ("A cat, sunlit", "a cat")
    assert enhanced.enhancement == NOTE
    assert claims.claim("paint", 4).status == "processing"


def test_success_carries_the_image(submit, paint, generations):
    submit(auto_enhance=False)
    done = generations.find(paint("00000000-0000-4000-8000-000000000001").id)
    assert (done.status, done.image.width, done.processing_time_ms, done.step) == (
        "success",
        8,
        12,
        2,
    )


@pytest.mark.parametrize("ending", ["cancel", "delete", "soft_delete"])
def test_whoever_lost_the_row_changes_nothing(ending, submit, claims, generations, project_id):
    submit(auto_enhance=False)
    taken = claims.claim("paint", 2)
    getattr(generations, ending)(project_id, taken.id, 3)
    before = generations.find(taken.id)
    assert not claims.holds(taken.id)
    assert not claims.record_step(taken.id, 1, 4)
    assert not claims.succeed(taken.id, an_image(project_id), 5, 5)
    assert not claims.fail(taken.id, "too late", 6)
    assert generations.find(taken.id) == before


def test_a_row_taken_back_waits_again(submit, claims, generations):
    submit(auto_enhance=False)
    taken = claims.claim("paint", 2)
    assert claims.release_claims(3) == 1
    again = generations.find(taken.id)
    assert (again.status, again.stage, again.retry_count, again.crashes) == (
        "pending",
        "paint",
        1,
        0,
    )
    assert claims.claim("paint", 4).id == taken.id


def test_a_row_that_crashes_the_worker_is_given_up(submit, claims, generations):
    poison, behind = submit(auto_enhance=False), submit(auto_enhance=False)
    for crash in range(3):
        assert claims.claim("paint", 5).id == poison.id
        assert claims.release_dead("worker-1", 2, 6) == (1, int(crash == 2))
    assert claims.fail_exhausted(2, 7) == 0
    gone = generations.find(poison.id)
    assert (gone.status, gone.retry_count) == ("failed", 3)
    assert "3 times" in gone.error_message
    assert claims.claim("paint", 8).id == behind.id


def test_a_prompt_that_crashes_the_worker_is_painted_as_it_is(submit, claims, generations):
    poison, painted = submit(), submit(auto_enhance=False)
    for crash in range(3):
        assert claims.claim("enhance", 5).id == poison.id
        # Only the first crash can hit its neighbour: then it is worked on alone.
        assert (claims.claim("paint", 5) is not None) == (crash == 0)
        claims.release_dead("worker-1", 2, 6)
    spared = generations.find(poison.id)
    assert (spared.stage, spared.prompt, spared.status) == ("paint", "a cat", "pending")
    assert "original prompt" in spared.warnings[0]
    assert spared.crashes == 0
    assert generations.find(painted.id).crashes == 1


def test_what_the_worker_dropped_waits_again_but_not_what_it_holds(submit, claims, generations):
    held, dropped = submit(auto_enhance=False), submit(auto_enhance=False)
    claims.claim("paint", 2)
    claims.claim("paint", 2)
    assert claims.release_claims(3, keep={held.id}) == 1
    assert generations.find(held.id).status == "processing"
    assert generations.find(dropped.id).status == "pending"


# Several workers


@pytest.fixture
def others(database) -> Claims:
    return Claims(database, "worker-2")


def test_only_the_dead_workers_rows_wait_again(submit, claims, others, generations):
    mine, its = (submit(auto_enhance=False).id for _ in range(2))
    claims.claim("paint", 2)
    others.claim("paint", 2)
    assert claims.other_holders() == {"worker-2"}
    assert claims.release_claims(3, keep={mine}) == 0
    assert claims.release_dead("worker-2", 2, 4) == (1, 0)
    assert claims.release_dead("worker-2", 2, 4) == (0, 0)
    assert claims.other_holders() == set()
    living, dead = generations.find(mine), generations.find(its)
    assert (living.status, living.retry_count, living.crashes) == ("processing", 0, 0)
    assert (dead.status, dead.retry_count, dead.crashes) == ("pending", 1, 1)
    assert not others.holds(its)


def test_a_worker_that_goes_gives_back_its_own_rows_only(submit, claims, others, generations):
    mine, its = (submit(auto_enhance=False).id for _ in range(2))
    claims.claim("paint", 2)
    others.claim("paint", 2)
    assert claims.release_claims(3) == 1
    assert generations.find(mine).status == "pending"
    assert generations.find(its).status == "processing"


def test_a_suspicious_row_is_alone_in_its_worker_while_the_others_go_on(submit, claims, others):
    suspicious, *rest = [submit(auto_enhance=False).id for _ in range(4)]
    assert others.claim("paint", 2).id == suspicious
    assert claims.claim("paint", 2).id == rest[0]
    claims.release_dead("worker-2", 2, 3)
    # Not beside another row of the same worker, but beside those of another one.
    assert claims.claim("paint", 4) is None
    third = Claims(claims._database, "worker-3")
    assert third.claim("paint", 4).id == suspicious
    assert third.claim("paint", 4) is None
    assert claims.claim("paint", 4).id == rest[1]
    third.fail(suspicious, "No", 5)
    assert third.claim("paint", 6).id == rest[2]


def test_nobody_takes_what_is_to_be_given_up(submit, claims, others, generations):
    poison = submit(auto_enhance=False).id
    for _ in range(3):
        assert others.claim("paint", 2).id == poison
        claims.release_dead("worker-2", 2, 3)
    assert generations.find(poison).status == "failed"
    assert others.claim("paint", 4) is None


def test_what_another_enhances_again_is_not_given_up_meanwhile(submit, claims, others, generations):
    made = submit().id
    for _ in range(2):
        claims.claim("enhance", 2)
        claims.release_dead("worker-1", 9, 3)
    others.claim("enhance", 4)
    # With a lower number of retries than before.
    assert claims.fail_exhausted(0, 5) == 0
    assert generations.find(made).stage == "enhance"
    assert others.holds(made)


def test_warnings_are_added_to_those_that_the_row_has(
    generations, claims, project_id, paint
) -> None:
    submitted = generations.submit(
        project_id, Submission("a cat"), 1, queue_size=9, warnings=("a tag was left out",)
    )
    generation = submitted.generation
    claims.claim("enhance", 2)
    claims.finish_enhancement(generation.id, prompt="a cat", note=None, warning="slow", now=3)
    assert generations.find(generation.id).warnings == ("a tag was left out", "slow")
    done = paint("6f9619ff-8b86-4d01-b42d-00cf4fc964ff")
    assert done.id == generation.id
    assert generations.find(generation.id).warnings == ("a tag was left out", "slow")
