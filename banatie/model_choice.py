"""Which installed model paints: the setting `painting.model`, or another chosen at run time.

A choice is stored in the database, so it survives a restart. It holds until the setting is given
another value: whoever chose last wins. Workers notice it by themselves and load the other model
once the pictures that they have begun are finished. How a model is loaded is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from banatie.config import Config
from banatie.errors import BanatieError, ModelError, ValidationError
from banatie.models.catalog import Catalog, require_installed
from banatie.models.types import Entry, PaintingModel
from banatie.models.validate import check_pipeline
from banatie.store.database import Database
from banatie.store.model_choices import ModelChoices

RELOAD_STATUS = 64
"""The exit status of a worker that ends in order to be started with another model."""


class PaintingModelChoice:
    """The painting model as the web process shows and switches it."""

    def __init__(
        self,
        choices: ModelChoices,
        catalog: Catalog,
        configured: str,
        clock: Callable[[], int],
    ) -> None:
        """`configured` is the setting `painting.model`."""
        self._choices = choices
        self._catalog = catalog
        self._clock = clock
        self.configured = configured

    def reference(self) -> str:
        """The name or folder of the model that paints, as the setting or the choice has it."""
        return self._choices.current(self.configured)

    def current(self) -> PaintingModel:
        """The model that paints. Raises ModelNotFound or ModelBroken."""
        return self._catalog.painting_model(self.reference())

    def available(self) -> tuple[PaintingModel, ...]:
        """The models that `switch` accepts, without those whose files cannot be read."""
        names = dict.fromkeys([self.configured])
        names |= dict.fromkeys(
            entry.name for entry in self._catalog.installed() if entry.kind == "painting"
        )
        found: dict[Path, PaintingModel] = {}
        for name in names:
            try:
                model = self._catalog.painting_model(name)
                check_pipeline(model.folder)
            except ModelError:
                continue
            found.setdefault(model.folder.resolve(), model)
        return tuple(found.values())

    def refusal(self, entry: Entry) -> str:
        """Why this model cannot be switched to; empty if it can."""
        try:
            self._check(entry)
        except ModelError as error:
            return str(error)
        return ""

    def switch(self, name: str) -> PaintingModel:
        """Paint with this installed model from the next picture on, also after a restart.

        Takes names of installed models, and the setting's own value. Raises ValidationError with
        the reason for what cannot paint.
        """
        reference = self.configured if name == self._configured_name() else name
        try:
            if reference != self.configured:
                self._check(self._catalog.entry(reference))
            model = self._catalog.painting_model(reference)
            check_pipeline(model.folder)
        except ModelError as error:
            raise ValidationError.of("name", str(error)) from error
        self._choices.store(reference, self.configured, self._clock())
        return model

    def is_current(self, entry: Entry) -> bool:
        """Whether this is the model that paints."""
        return is_reference_to(self.reference(), entry)

    def _configured_name(self) -> str:
        """The name that the setting's model has in the list of models."""
        return Path(self.configured).name if "/" in self.configured else self.configured

    def _check(self, entry: Entry) -> None:
        if entry.kind == "lora":
            raise ModelError(f"{entry.name} is a LoRA: name it in a request's `loras`")
        if entry.kind == "ip-adapter":
            raise ModelError(
                f"{entry.name} is an IP-Adapter: set painting.ip_adapter to it and restart"
            )
        if entry.kind == "language":
            raise ModelError(
                f"{entry.name} is a language model: set enhancement.model to it and restart"
            )
        require_installed(entry)
        if entry.problem:
            raise ModelError(entry.problem)
        check_pipeline(self._catalog.painting_model(entry.name).folder)


def is_reference_to(reference: str, entry: Entry) -> bool:
    """Whether the value of a setting, a name or a folder, names this model."""
    folder = Path(reference).expanduser()
    return reference == entry.name or (
        folder.is_dir() and folder.resolve() == entry.folder.resolve()
    )


def choose_for_running_server(config: Config, reference: str, now: int) -> bool:
    """Let a server that runs with these settings paint with this model; False without a database.

    Raises DatabaseUnusable and ServiceUnavailable.
    """
    path = config.storage.data / "banatie.db"
    if not path.exists():
        return False
    database = Database(path)
    try:
        if database.pending():
            return False
        ModelChoices(database).store(reference, config.painting.model, now)
        return True
    finally:
        database.close()


def with_chosen_model(config: Config, database: Database) -> Config:
    """The settings with the model that was chosen at run time; of a database that is migrated."""
    reference = ModelChoices(database).current(config.painting.model)
    return msgspec.structs.replace(
        config, painting=msgspec.structs.replace(config.painting, model=reference)
    )


def chosen_config(config: Config) -> Config:
    """The same of the data folder's database; where that cannot be read, the settings as they are.

    The database is only read, and need not exist.
    """
    path = config.storage.data / "banatie.db"
    if not path.exists():
        return config
    database = Database(path, read_only=True)
    try:
        # Of an older version there is no choice yet.
        return config if database.pending() else with_chosen_model(config, database)
    except BanatieError:
        return config
    finally:
        database.close()
