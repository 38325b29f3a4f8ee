"""The composition root of everything but the worker: builds the objects over a data folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

from banatie.checks import SubmissionChecks
from banatie.config import Config, arguments_of
from banatie.installer import Installer
from banatie.intake import Intake
from banatie.jobs import JobQueue, Stage
from banatie.library import Library
from banatie.live import Live
from banatie.model_choice import PaintingModelChoice
from banatie.models.catalog import Catalog
from banatie.store.backup import finish_restore
from banatie.store.database import Database
from banatie.store.disk import fill_reserve
from banatie.store.files import Files, make_data_folder
from banatie.store.flows import Flows
from banatie.store.generations import Generations
from banatie.store.installations import Installations
from banatie.store.keys import Keys
from banatie.store.live_images import LiveImages
from banatie.store.model_choices import ModelChoices
from banatie.store.project_images import ProjectImages
from banatie.store.projects import Projects
from banatie.store.regeneration import Regeneration
from banatie.store.scopes import Scopes
from banatie.store.sessions import Sessions
from banatie.store.webhooks import Webhooks
from banatie.store.workers import Workers
from banatie.webhooks import WebhookRules


@dataclass(frozen=True)
class Services:
    """The objects of the web process, and of commands that submit generations."""

    config: Config
    database: Database
    generations: Generations
    keys: Keys
    sessions: Sessions
    projects: Projects
    workers: Workers
    files: Files
    queues: Mapping[Stage, JobQueue]
    intake: Intake
    library: Library
    live: Live
    painting_model: PaintingModelChoice
    installer: Installer
    command: tuple[str, ...]
    """Starts the command line with these settings."""
    webhooks: Webhooks
    webhook_rules: WebhookRules
    clock: Callable[[], int]

    def close(self) -> None:
        """Close the database connection, queue files and sockets of the calling thread."""
        for queue in self.queues.values():
            queue.close()
        self.webhook_rules.close()
        self.database.close()


def open_services(config: Config, clock: Callable[[], int]) -> Services:
    """Open the data folder, which is created and migrated if need be, and build the objects."""
    data = config.storage.data
    make_data_folder(data)
    finish_restore(data)
    database = Database(data / "banatie.db")
    database.migrate()
    fill_reserve(data)
    generations, files = Generations(database), Files(data / "storage")
    keys, catalog = Keys(database), Catalog(config.storage.models)
    command = (sys.executable, "-m", "banatie", *arguments_of(config))
    painting_model = PaintingModelChoice(
        ModelChoices(database), catalog, config.painting.model, clock
    )
    webhook_rules = WebhookRules(config.webhooks)
    checks = SubmissionChecks(config.limits, catalog, painting_model.reference, webhook_rules)
    stages: tuple[Stage, ...] = get_args(Stage)
    queues = {stage: JobQueue(stage, data) for stage in stages}
    projects = Projects(database)
    regeneration = Regeneration(database)
    intake = Intake(
        generations,
        files,
        queues,
        config.limits,
        catalog,
        checks,
        regeneration,
        clock,
        config.webhooks.urls,
    )
    scopes, live_images = Scopes(database), LiveImages(database)
    return Services(
        config=config,
        database=database,
        generations=generations,
        keys=keys,
        sessions=Sessions(database),
        projects=projects,
        workers=Workers(database),
        files=files,
        queues=queues,
        intake=intake,
        live=Live(intake, checks, projects, scopes, live_images, config.live, clock),
        painting_model=painting_model,
        installer=Installer(Installations(database), catalog, command, clock),
        command=command,
        library=Library(
            ProjectImages(database),
            Flows(database),
            keys,
            files,
            checks,
            clock,
            keep_metadata=config.images.keep_metadata,
        ),
        webhooks=Webhooks(database),
        webhook_rules=webhook_rules,
        clock=clock,
    )
