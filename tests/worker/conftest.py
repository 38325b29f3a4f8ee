"""A bench: all stages over a real database, a folder of files and tiny real models."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from banatie.config import load_config
from banatie.devices.memory_plan import PlacementPreferences
from banatie.devices.runtime import choose_runtime
from banatie.enhancement.enhancer import Enhancer
from banatie.models.catalog import Catalog
from banatie.models.types import PaintingModel
from banatie.painting.painter import Painter
from banatie.store.files import Files
from banatie.store.images import Images
from banatie.worker.claimed_rows import ClaimedRows
from banatie.worker.enhance import EnhanceStage
from banatie.worker.job_builder import JobBuilder, SourcePictures
from banatie.worker.paint import PaintStage
from banatie.worker.placement import ModelPlacement
from banatie.worker.save import Provenance, SaveStage
from banatie.worker.watchdog import Activity

torch.set_num_threads(1)

RUNTIME = choose_runtime("cpu")


@dataclasses.dataclass
class Bench:
    """The stages and what they work on."""

    rows: ClaimedRows
    enhance: EnhanceStage
    paint: PaintStage
    save: SaveStage
    jobs: JobBuilder
    painter: Painter
    enhancer: Enhancer | None
    model: PaintingModel
    files: Files
    notified: list[str]

    def stored(self) -> list[Path]:
        return [path for path in self.files.folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tiny_sdxl, tiny_language_model) -> Path:
    """A models folder with the painting model `sdxl` and the language model `language`."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_sdxl, folder / "sdxl")
    shutil.copytree(tiny_language_model, folder / "language")
    return folder


@pytest.fixture(scope="session")
def loaded(model_folder) -> ModelPlacement:
    catalog = Catalog(model_folder)
    return ModelPlacement.load(
        catalog.painting_model("sdxl"),
        catalog.language_model("language"),
        RUNTIME,
        PlacementPreferences(),
    )


@pytest.fixture
def make_bench(model_folder, loaded, claims, keys, database, tmp_path):
    """Makes a bench: with settings by their names, a `batch` size, `smaller` plans, an enhancer."""
    made: list[Bench] = []

    def make_bench(
        *, batch=1, smaller=(), enhancer=loaded.enhancer, ip_adapter=None, **settings: object
    ) -> Bench:
        catalog, files = Catalog(model_folder), Files(tmp_path / "storage")
        model, config = catalog.painting_model("sdxl"), load_config(None, {}, settings)
        plan = dataclasses.replace(loaded.plan, batch=batch)
        painter = loaded.painter
        if ip_adapter is not None:
            painter = Painter.load(model, RUNTIME, plan, ip_adapter=ip_adapter)
        placement = ModelPlacement(plan, smaller, RUNTIME, painter, enhancer)
        rows = ClaimedRows(claims, lambda: 1_700_000_000_000)
        provenance = Provenance(painter, model) if config.storage.metadata else None
        saving = Activity("saving a picture", 3600)
        save = SaveStage(rows, files, keys.organization_of, provenance, saving)
        notified: list[str] = []
        painting = Activity("the painting", 3600)
        sources = SourcePictures(Images(database).find, files)
        jobs = JobBuilder(model, catalog, sources, painter.reads_pictures)
        bench = Bench(
            rows,
            EnhanceStage(rows, placement, config.enhancement.time_limit, notified.append),
            PaintStage(rows, placement, jobs, save, painting, previews=True),
            save,
            jobs,
            painter,
            enhancer,
            model,
            files,
            notified,
        )
        made.append(bench)
        return bench

    yield make_bench
    for bench in made:
        bench.save.close(20)


@pytest.fixture
def bench(make_bench) -> Bench:
    return make_bench()


def raising(error: Exception, hooks: list | None = None) -> Callable[..., None]:
    """A module hook that raises; with `hooks`, which holds its handle, only once."""

    def raise_error(*_: object) -> None:
        if hooks:
            hooks.pop().remove()
        raise error

    return raise_error
