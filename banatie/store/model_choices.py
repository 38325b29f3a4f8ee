"""The painting model that was chosen at run time, beside the setting that it replaces.

The choice holds until `painting.model` is given another value. Whether the model exists is not
known here.
"""

from __future__ import annotations

from dataclasses import dataclass

from banatie.store.database import Database

PAINTING = "painting.model"


@dataclass(frozen=True)
class ModelChoice:
    """A model that was chosen while the setting had the value `configured`."""

    chosen: str
    configured: str
    chosen_at: int
    """In milliseconds since 1970."""


class ModelChoices:
    """The choice in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def stored(self) -> ModelChoice | None:
        """The choice that was stored last, whether it still holds or not."""
        row = self._database.first(
            "SELECT chosen, configured, chosen_at FROM model_choices WHERE setting = ?", (PAINTING,)
        )
        return None if row is None else ModelChoice(*row)

    def current(self, configured: str) -> str:
        """The model to paint with where the setting says `configured`."""
        choice = self.stored()
        holds = choice is not None and choice.configured == configured
        return choice.chosen if choice is not None and holds else configured

    def store(self, chosen: str, configured: str, now: int) -> None:
        """Paint with `chosen` from now on, in place of the setting's `configured`."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM model_choices WHERE setting = ?", (PAINTING,))
            if chosen != configured:
                connection.execute(
                    "INSERT INTO model_choices (setting, chosen, configured, chosen_at) "
                    "VALUES (?, ?, ?, ?)",
                    (PAINTING, chosen, configured, now),
                )
