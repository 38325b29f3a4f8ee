"""`banatie keys`: create, list and revoke API keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, get_args

import click

from banatie.cli.options import data_dir_option, now, open_database
from banatie.cli.terminal import Text
from banatie.limits import MAX_EXPIRY_DAYS, MAX_REQUESTS_PER_HOUR
from banatie.records import DEFAULT_SLUG, Key, KeyType

if TYPE_CHECKING:
    from banatie.store.keys import Keys

LOST_KEY = (
    "A key's text is stored nowhere. Is it lost? Make another: banatie keys create --name NAME"
)


@click.group()
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command("create")
@data_dir_option
@click.option("--name", type=Text(), required=True, help="What the key is for.")
@click.option(
    "--type",
    "key_type",
    type=click.Choice(get_args(KeyType)),
    default="project",
    show_default=True,
    help="A master key may also create and revoke keys, over HTTP.",
)
@click.option("--organization", type=Text(), default=DEFAULT_SLUG, show_default=True)
@click.option("--project", type=Text(), default=DEFAULT_SLUG, show_default=True)
@click.option(
    "--requests-per-hour", type=click.IntRange(0, MAX_REQUESTS_PER_HOUR), help="0: no limit."
)
@click.option("--expires-in-days", type=click.IntRange(1, MAX_EXPIRY_DAYS))
@click.pass_context
def create_key(
    context: click.Context,
    name: str,
    key_type: KeyType,
    organization: str,
    project: str,
    requests_per_hour: int | None,
    expires_in_days: int | None,
) -> None:
    """Create a key and print it. It cannot be shown again."""
    from banatie.store.keys import DAY_MILLISECONDS

    created_at = now()
    text = _keys(context).create(
        name,
        created_at,
        type=key_type,
        organization_slug=organization,
        project_slug=project,
        requests_per_hour=requests_per_hour,
        expires_at=created_at + expires_in_days * DAY_MILLISECONDS if expires_in_days else None,
    )
    click.echo(text)


@keys.command("list")
@data_dir_option
@click.pass_context
def list_keys(context: click.Context) -> None:
    """List the keys, without their texts."""
    for key in _keys(context).all():
        place = f"{key.project.organization_slug}/{key.project.slug}"
        created = _date(key.created_at)
        kind = "  (master)" if key.type == "master" else ""
        state = f"{_state(key):<16}"
        click.echo(f"{key.id}  {key.hint}…  {created}  {state}  {place}  {key.name}{kind}")
    click.echo(LOST_KEY, err=True)


@keys.command("revoke")
@data_dir_option
@click.argument("reference", metavar="ID|NAME|HINT", type=Text())
@click.pass_context
def revoke_key(context: click.Context, reference: str) -> None:
    """Revoke a key immediately."""
    key = _keys(context).revoke(reference, now())
    click.echo(f"Revoked {key.name} ({key.hint}…)")


def _keys(context: click.Context) -> Keys:
    from banatie.store.keys import Keys

    database = open_database(context)
    database.migrate()
    return Keys(database)


def _state(key: Key) -> str:
    if key.revoked_at:
        return "revoked"
    if key.expires_at:
        return f"until {_date(key.expires_at)}" if now() < key.expires_at else "expired"
    return "active"


def _date(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d}"
