"""`banatie projects`: create, list and set up the projects that keys and images belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from banatie.cli.options import data_dir_option, now, open_database
from banatie.cli.terminal import Text
from banatie.records import DEFAULT_SLUG

if TYPE_CHECKING:
    from banatie.store.projects import Projects


@click.group()
def projects() -> None:
    """Create, list and set up projects."""


@projects.command("create")
@data_dir_option
@click.argument("name", type=Text())
@click.option("--organization", type=Text(), default=DEFAULT_SLUG, show_default=True)
@click.pass_context
def create_project(context: click.Context, name: str, organization: str) -> None:
    """Create a project and print its id; one that exists stays as it is."""
    click.echo(_projects(context).create(organization, name, now()).id)


@projects.command("list")
@data_dir_option
@click.pass_context
def list_projects(context: click.Context) -> None:
    """List the projects with their keys and generations."""
    for each in _projects(context).all(now()):
        place = f"{each.project.organization_slug}/{each.project.slug}"
        click.echo(
            f"{each.project.id}  {place:<24}  {_counted(each.active_keys, 'key')}, "
            f"{_counted(each.generations, 'generation')}"
            f"{'' if each.allows_new_scopes else ', no new scopes'}"
        )


@projects.command("set")
@data_dir_option
@click.argument("name", type=Text())
@click.option("--organization", type=Text(), default=DEFAULT_SLUG, show_default=True)
@click.option(
    "--new-scopes/--no-new-scopes",
    required=True,
    help="Whether live URLs may use scopes that nobody has created.",
)
@click.pass_context
def set_project(context: click.Context, name: str, organization: str, new_scopes: bool) -> None:
    """Change a project's settings, also while a server runs."""
    stored = _projects(context)
    project = stored.called(organization, name)
    stored.allow_new_scopes(project.id, allowed=new_scopes)
    allowed = "may make new scopes" if new_scopes else "use existing scopes only"
    click.echo(f"Live URLs of {organization}/{name} {allowed}")


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _projects(context: click.Context) -> Projects:
    from banatie.store.projects import Projects

    database = open_database(context)
    database.migrate()
    return Projects(database)
