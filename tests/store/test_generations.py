"""The client's side of the generations' rows."""

from __future__ import annotations

import pytest

from banatie.errors import GenerationNotFound, QueueFull, ValidationError
from banatie.limits import MAX_SEED
from banatie.records import Submission
from banatie.store.gallery import Filters, Gallery
from banatie.store.generations import IDEMPOTENCY_HOURS, IdempotentRequest

HOUR = 3_600_000


def test_a_submitted_row_is_pending_and_complete(submit, generations):
    made = submit("ein Igel 🦔", now=7, meta={"a": [1, None]}, negative_prompt="blur", steps=4)
    assert generations.find(made.id) == made
    assert (made.status, made.stage, made.created_at, made.updated_at) == (
        "pending",
        "enhance",
        7,
        7,
    )
    assert made.prompt == made.original_prompt == "ein Igel 🦔"
    assert made.meta == {"a": [1, None]}
    assert 0 <= made.seed <= MAX_SEED


def test_without_enhancement_it_waits_for_painting_at_once(submit):
    assert submit(auto_enhance=False).stage == "paint"


def test_a_full_queue_refuses_and_keeps_nothing(submit, generations, project_id):
    submit()
    with pytest.raises(QueueFull):
        generations.submit(project_id, Submission("one too many"), 2, queue_size=1)
    assert generations.count() == 1


def test_what_is_in_work_or_ended_does_not_fill_the_queue(submit, claims, generations, project_id):
    submit(auto_enhance=False)
    claims.claim("paint", 2)
    assert generations.submit(project_id, Submission("next"), 3, queue_size=1).is_new


def test_the_counts_follow_every_change(submit, claims, generations, paint, project_id, database):
    for _ in range(4):
        submit(auto_enhance=False)
    painted = paint("00000000-0000-4000-8000-000000000001")
    claims.fail(claims.claim("paint", 3).id, "no", 3)
    binned = generations.soft_delete(project_id, claims.claim("paint", 4).id, 5)
    generations.restore(project_id, binned.id, 6)
    generations.soft_delete(project_id, binned.id, 7)
    generations.delete(project_id, painted.id, 50)
    counted = {
        tuple(row)[1:]
        for row in database.query("SELECT * FROM generation_counts WHERE generations > 0")
    }
    assert counted == {("failed", 0, 1), ("failed", 1, 1), ("pending", 0, 1)}


def test_deep_pages_are_found_by_an_index_alone(database, project_id):
    plan = database.query(
        "EXPLAIN QUERY PLAN SELECT number FROM generations WHERE project_id = ? "
        "AND deleted_at IS NULL ORDER BY created_at DESC, id DESC LIMIT 20 OFFSET 40000",
        (project_id,),
    )
    assert [row["detail"] for row in plan] == [
        "SEARCH generations USING COVERING INDEX generations_listed (project_id=?)"
    ]


def test_another_project_sees_nothing(submit, generations, keys):
    made = submit()
    keys.create("other", 1, project_slug="other")
    other = next(key.project.id for key in keys.all() if key.project.slug == "other")
    with pytest.raises(GenerationNotFound):
        generations.get(other, made.id)
    with pytest.raises(GenerationNotFound):
        generations.delete(other, made.id, 9)
    with pytest.raises(GenerationNotFound):
        generations.cancel(other, made.id, 2)
    assert generations.find(made.id).status == "pending"


def test_cancelling_ends_a_row_once(submit, generations, project_id):
    made = submit()
    cancelled = generations.cancel(project_id, made.id, 3)
    assert (cancelled.status, cancelled.error_message) == ("failed", "Cancelled")
    assert generations.cancel(project_id, made.id, 9) == cancelled


def test_deleting_names_the_file_that_is_to_go(submit, generations, paint, project_id):
    submit(auto_enhance=False)
    painted = paint("00000000-0000-4000-8000-000000000001")
    key = generations.delete(project_id, painted.id, 50)
    assert key == f"default/{project_id}/generated/00000000-0000-4000-8000-000000000001.png"
    with pytest.raises(GenerationNotFound):
        generations.delete(project_id, painted.id, 50)


def test_the_bin_hides_restores_and_empties(submit, generations, paint, project_id, database):
    submit(auto_enhance=False)
    painted = paint("00000000-0000-4000-8000-000000000001")
    binned = generations.soft_delete(project_id, painted.id, 20)
    assert (binned.deleted_at, binned.status) == (20, "success")
    gallery = Gallery(database)
    assert gallery.page(project_id, Filters(), limit=9).total == 0
    page = gallery.page(project_id, Filters(include_deleted=True), limit=9)
    assert page.generations == [binned]
    with pytest.raises(GenerationNotFound):
        generations.soft_delete(project_id, painted.id, 21)
    assert generations.restore(project_id, painted.id, 22).deleted_at is None
    generations.soft_delete(project_id, painted.id, 23)
    assert generations.purge_deleted(23, 50) == []
    assert len(generations.purge_deleted(24, 50)) == 1
    assert generations.find(painted.id) is None


def test_binning_what_has_not_ended_cancels_it(submit, generations, claims, project_id):
    submit(auto_enhance=False)
    taken = claims.claim("paint", 2)
    binned = generations.soft_delete(project_id, taken.id, 3)
    assert (binned.status, binned.error_message) == ("failed", "Cancelled")
    assert not claims.holds(taken.id)


def test_the_same_request_counts_once(generations, project_id, keys):
    keys.create("k", 1)
    request = IdempotentRequest(keys.all()[0].id, "key", "hash")
    options = {"queue_size": 9, "idempotent": request}
    first = generations.submit(project_id, Submission("a"), 1, **options)
    again = generations.submit(project_id, Submission("a"), 2, **options)
    assert (again.is_new, again.generation, again.answer) == (False, first.generation, None)
    generations.save_answer(request, b"first")
    generations.save_answer(request, b"second")
    assert generations.submit(project_id, Submission("a"), 3, **options).answer == b"first"
    other = IdempotentRequest(request.key_id, "key", "another hash")
    with pytest.raises(ValidationError, match="another body"):
        generations.submit(project_id, Submission("b"), 4, queue_size=9, idempotent=other)
    later = 1 + IDEMPOTENCY_HOURS * HOUR + 1
    assert generations.submit(project_id, Submission("a"), later, **options).is_new


def test_every_change_has_a_larger_revision(submit, generations, claims, project_id):
    first, second = submit(auto_enhance=False), submit()
    revision = generations.latest_revision()
    claims.claim("paint", 2)
    generations.cancel(project_id, second.id, 3)
    changed = generations.changed_since(revision)
    assert [generation.id for generation in changed] == [first.id, second.id]
    assert generations.changed_since(generations.latest_revision()) == []


def test_the_revision_of_a_deleted_row_is_not_given_again(submit, generations, project_id):
    gone = submit()
    generations.delete(project_id, gone.id, 50)
    assert submit().revision > gone.revision
