"""Organisations and projects, each known by its slug, which becomes part of URLs and of folders.

What belongs to a project (keys, generations, images, scopes) is up to the other modules.
"""

from __future__ import annotations

import re
import sqlite3
import uuid
from dataclasses import dataclass

from banatie.errors import NotFound, ValidationError
from banatie.records import Project
from banatie.store.database import Database

SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

_SELECT = """
    SELECT projects.*, organizations.slug AS organization_slug
    FROM projects JOIN organizations ON organizations.id = projects.organization_id
"""


@dataclass(frozen=True)
class ProjectState:
    """A project and what the command line shows of it."""

    project: Project
    created_at: int
    allows_new_scopes: bool
    active_keys: int
    generations: int


class Projects:
    """The projects in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, organization_slug: str, project_slug: str, now: int) -> Project:
        """The project, created with its organisation if they do not exist.

        Raises ValidationError.
        """
        check_slugs(organization_slug, project_slug)
        with self._database.writing() as connection:
            ensure_project(connection, organization_slug, project_slug, now)
        return self.called(organization_slug, project_slug)

    def find(self, project_id: str) -> Project | None:
        """The project with this id."""
        row = self._database.first(_SELECT + " WHERE projects.id = ?", (project_id,))
        return _project(row) if row else None

    def called(self, organization_slug: str, project_slug: str) -> Project:
        """The project with these slugs. Raises NotFound."""
        row = self._database.first(
            _SELECT + " WHERE organizations.slug = ? AND projects.slug = ?",
            (organization_slug, project_slug),
        )
        if row is None:
            raise NotFound(f"No project {organization_slug}/{project_slug}")
        return _project(row)

    def allow_new_scopes(self, project_id: str, *, allowed: bool) -> None:
        """Set whether live URLs of the project may make new scopes by themselves."""
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE projects SET allow_new_scopes = ? WHERE id = ?", (allowed, project_id)
            )

    def organization_slug(self, organization_id: str) -> str | None:
        """The slug of the organisation with this id."""
        row = self._database.first(
            "SELECT slug FROM organizations WHERE id = ?", (organization_id,)
        )
        return row["slug"] if row else None

    def all(self, now: int) -> list[ProjectState]:
        """All projects by name, with the number of their keys that are active at `now`."""
        rows = self._database.query(
            """
            SELECT projects.*, organizations.slug AS organization_slug,
                (SELECT count(*) FROM keys
                    WHERE keys.project_id = projects.id AND revoked_at IS NULL
                        AND NOT is_owner
                        AND (expires_at IS NULL OR expires_at > ?)) AS active_keys,
                (SELECT coalesce(sum(generations), 0) FROM generation_counts
                    WHERE generation_counts.project_id = projects.id) AS generations
            FROM projects JOIN organizations ON organizations.id = projects.organization_id
            ORDER BY organizations.slug, projects.slug
            """,
            (now,),
        )
        return [
            ProjectState(
                project=_project(row),
                created_at=row["created_at"],
                allows_new_scopes=bool(row["allow_new_scopes"]),
                active_keys=row["active_keys"],
                generations=row["generations"],
            )
            for row in rows
        ]


def check_slugs(organization_slug: str, project_slug: str) -> None:
    """Raise ValidationError if one cannot be the name of a folder and a part of URLs."""
    for what, slug in (("organization", organization_slug), ("project", project_slug)):
        if not SLUG.fullmatch(slug):
            raise ValidationError.of(what, "takes letters a to z, digits and hyphens, up to 64")


def ensure_project(
    connection: sqlite3.Connection, organization_slug: str, project_slug: str, now: int
) -> str:
    """The id of the project with these slugs, which is created if it does not exist."""
    connection.execute(
        "INSERT INTO organizations VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (str(uuid.uuid4()), organization_slug, now),
    )
    (organization_id,) = connection.execute(
        "SELECT id FROM organizations WHERE slug = ?", (organization_slug,)
    ).fetchone()
    connection.execute(
        "INSERT INTO projects (id, organization_id, slug, created_at) VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        (str(uuid.uuid4()), organization_id, project_slug, now),
    )
    project_id: str = connection.execute(
        "SELECT id FROM projects WHERE organization_id = ? AND slug = ?",
        (organization_id, project_slug),
    ).fetchone()[0]
    return project_id


def _project(row: sqlite3.Row) -> Project:
    return Project(row["id"], row["slug"], row["organization_slug"], row["organization_id"])
