"""Fixtures that all tests share: a real database in a temporary folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from banatie.records import Generation, Image, Submission
from banatie.store.claims import Claims
from banatie.store.database import Database
from banatie.store.files import generated_key
from banatie.store.generations import Generations
from banatie.store.keys import Keys

QUEUE_SIZE = 1000


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(tmp_path / "banatie.db")
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def keys(database: Database) -> Keys:
    return Keys(database)


@pytest.fixture
def project_id(keys: Keys) -> str:
    return keys.default_project_id(0)


@pytest.fixture
def generations(database: Database) -> Generations:
    return Generations(database)


@pytest.fixture
def claims(database: Database) -> Claims:
    return Claims(database, "worker-1")


@pytest.fixture
def submit(generations: Generations, project_id: str):
    """Adds a generation: `submit(prompt="a cat", now=5, …)`."""

    def submit(prompt: str = "a cat", now: int = 1, **options: object) -> Generation:
        submission = Submission(prompt=prompt, **options)
        return generations.submit(project_id, submission, now, queue_size=QUEUE_SIZE).generation

    return submit


@pytest.fixture
def paint(claims: Claims, project_id: str):
    """Paints the oldest waiting row: claims it and ends it with an image."""

    def paint(image_id: str, now: int = 9) -> Generation:
        generation = claims.claim("paint", now)
        claims.start_painting(generation.id, model="m", steps=2, guidance_scale=1.0, now=now)
        image = Image(
            id=image_id,
            project_id=project_id,
            storage_key=generated_key("default", project_id, image_id),
            mime_type="image/png",
            width=8,
            height=8,
            file_size=3,
            created_at=now,
        )
        assert claims.succeed(generation.id, image, 12, now)
        return generation

    return paint
