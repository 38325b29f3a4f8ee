"""Fixtures shared by all tests: a real database in a temporary folder."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from banatie.records import Generation, Image, Submission
from banatie.store.claims import Claims
from banatie.store.database import Database
from banatie.store.files import generated_key
from banatie.store.generations import Generations
from banatie.store.keys import Keys

QUEUE_SIZE = 1000

# Read when torch is imported. Two test processes with two threads each on two cores run several
# times slower than with one each.
os.environ.setdefault("OMP_NUM_THREADS", "1")


END_TO_END = ("e2e", "faults", "clients", "studio")
"""The folders whose tests run the whole service."""
END_TO_END_TIMEOUT_SECONDS = 600
SLOW_TIMEOUT_SECONDS = 3600
MODULES_FROZEN = pytest.StashKey[int]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the end-to-end tests before `-m` selects, and give long tests longer timeouts."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in END_TO_END:
            item.add_marker(pytest.mark.end_to_end)
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_SECONDS))
        elif item.get_closest_marker("end_to_end"):
            item.add_marker(pytest.mark.timeout(END_TO_END_TIMEOUT_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in captured output: pytest-xdist sends reports as UTF-8."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


def pytest_collection_finish(session: pytest.Session) -> None:
    """Exclude everything imported so far from garbage collection.

    With torch, diffusers and transformers loaded, a full collection takes 0.3 s, and unloading a
    model runs one.
    """
    _freeze(session.config)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Exclude also what a test has imported, once that is much."""
    frozen = item.config.stash.get(MODULES_FROZEN, 0)
    if len(sys.modules) > frozen + 100:
        _freeze(item.config)


def _freeze(config: pytest.Config) -> None:
    gc.collect()
    gc.freeze()
    config.stash[MODULES_FROZEN] = len(sys.modules)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with all migrations, never changed; applying them takes 12 ms."""
    path = tmp_path_factory.mktemp("migrated") / "banatie.db"
    with contextlib.closing(Database(path)) as database:
        database.migrate()
    return path


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Iterator[Database]:
    shutil.copyfile(migrated, tmp_path / "banatie.db")
    with contextlib.closing(Database(tmp_path / "banatie.db")) as database:
        yield database


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny painting model; never changed, made in 0.3 s, copied in 10 ms."""
    from tests.support.tiny_models import make_tiny_sdxl

    return make_tiny_sdxl(tmp_path_factory.mktemp("tiny") / "sdxl")


@pytest.fixture(scope="session")
def tiny_language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny language model; never changed."""
    from tests.support.tiny_models import make_tiny_language_model

    return make_tiny_language_model(tmp_path_factory.mktemp("tiny") / "language")


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
    """Submit a generation: `submit(prompt="a cat", now=5, …)`."""

    def submit(prompt: str = "a cat", now: int = 1, **options: object) -> Generation:
        submission = Submission(prompt=prompt, **options)
        return generations.submit(project_id, submission, now, queue_size=QUEUE_SIZE).generation

    return submit


@pytest.fixture
def paint(claims: Claims, project_id: str):
    """Claim the row that has waited longest for painting and let it succeed."""

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
