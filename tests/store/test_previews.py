"""What a picture looks like while it is painted: kept for as long as somebody paints it."""

from __future__ import annotations

import pytest

from banatie.records import Image
from banatie.store.claims import Claims
from banatie.store.previews import Preview, Previews


@pytest.fixture
def previews(database) -> Previews:
    return Previews(database)


@pytest.fixture
def painted(submit, claims):
    """A generation that is being painted, with a preview."""
    submit(auto_enhance=False)
    taken = claims.claim("paint", 2)
    claims.start_painting(taken.id, model="m", steps=9, guidance_scale=1.0, now=3)
    assert claims.record_step(taken.id, 1, 4, b"one")
    return taken


def count(database) -> int:
    return database.first("SELECT count(*) FROM previews")[0]


def test_the_latest_is_kept_with_its_step(previews, painted, claims, generations, database):
    assert previews.find(painted.id) == Preview(1, b"one")
    assert claims.record_step(painted.id, 2, 5)
    assert previews.find(painted.id) == Preview(1, b"one")
    assert claims.record_step(painted.id, 3, 6, b"three")
    assert previews.find(painted.id) == Preview(3, b"three")
    assert generations.find(painted.id).step == 3
    assert count(database) == 1
    assert previews.find("another") is None


def test_who_does_not_hold_the_row_writes_none(previews, painted, database):
    assert not Claims(database, "worker-2").record_step(painted.id, 5, 6, b"five")
    assert previews.find(painted.id) == Preview(1, b"one")


ENDS = {
    "success": lambda claims, generations, made: claims.succeed(
        made.id, Image("i", made.project_id, "k", "image/png", 1, 1, 1, 1), 5, 9
    ),
    "failure": lambda claims, generations, made: claims.fail(made.id, "No", 9),
    "taken back": lambda claims, generations, made: claims.release_claims(9),
    "its worker died": lambda claims, generations, made: claims.release_dead("worker-1", 2, 9),
    "given up": lambda claims, generations, made: claims.release_dead("worker-1", 0, 9),
    "cancelled": lambda claims, generations, made: generations.cancel(made.project_id, made.id, 9),
    "binned": lambda claims, generations, made: generations.soft_delete(
        made.project_id, made.id, 9
    ),
    "deleted": lambda claims, generations, made: generations.delete(made.project_id, made.id, 9),
}


@pytest.mark.parametrize("end", ENDS)
def test_it_goes_when_nobody_paints_any_more(end, painted, claims, generations, database):
    others = Claims(database, "worker-2")
    ENDS[end](claims, generations, painted)
    assert count(database) == 0
    assert not others.record_step(painted.id, 2, 10, b"late")
    assert count(database) == 0


def test_that_of_another_picture_stays(painted, submit, database, generations, previews):
    submit(auto_enhance=False)
    other = Claims(database, "worker-2")
    taken = other.claim("paint", 5)
    other.record_step(taken.id, 1, 6, b"other")
    other.fail(taken.id, "No", 7)
    assert previews.find(painted.id) == Preview(1, b"one")
