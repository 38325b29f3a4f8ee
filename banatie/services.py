"""The composition root of everything but the worker: builds the objects over a data folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from banatie.config import Config
from banatie.intake import Intake
from banatie.jobs import JobQueue, Stage
from banatie.models.catalog import Catalog
from banatie.store.backup import finish_restore
from banatie.store.database import Database
from banatie.store.files import Files
from banatie.store.generations import Generations
from banatie.store.keys import Keys
from banatie.store.workers import Workers


@dataclass(frozen=True)
class Services:
    """What the routes are given."""

    config: Config
    database: Database
    generations: Generations
    keys: Keys
    workers: Workers
    files: Files
    queues: Mapping[Stage, JobQueue]
    intake: Intake
    clock: Callable[[], int]

    def close(self) -> None:
        """Let go of the files and sockets that the calling thread holds."""
        for queue in self.queues.values():
            queue.close()
        self.database.close()


def open_services(config: Config, clock: Callable[[], int]) -> Services:
    """The objects of the web process, over a data folder that is made if it is not there."""
    data = config.storage.data
    data.mkdir(parents=True, exist_ok=True)
    finish_restore(data)
    database = Database(data / "banatie.db")
    database.migrate()
    generations, files = Generations(database), Files(data / "storage")
    queues = {"enhance": JobQueue("enhance", data), "paint": JobQueue("paint", data)}
    return Services(
        config=config,
        database=database,
        generations=generations,
        keys=Keys(database),
        workers=Workers(database),
        files=files,
        queues=queues,
        intake=Intake(
            generations, files, queues, config.limits, Catalog(config.storage.models), clock
        ),
        clock=clock,
    )
