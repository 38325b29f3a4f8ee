"""`banatie images` and `banatie flows`: the images and flows of the default project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from banatie.cli.options import config_of, data_dir_option, now
from banatie.cli.terminal import Text
from banatie.limits import MAX_PAGE_SIZE

if TYPE_CHECKING:
    from banatie.records import Image
    from banatie.services import Services


@click.group()
def images() -> None:
    """Upload, list, name and delete images."""


@images.command("upload")
@data_dir_option
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--alias", type=Text(), help="A name for it, such as @logo.")
@click.pass_context
def upload_image(context: click.Context, file: Path, alias: str | None) -> None:
    """Store a PNG, JPEG or WebP and print its id."""
    with _opened(context) as (services, project_id):
        click.echo(store_file(services, project_id, file, alias).id)


@images.command("list")
@data_dir_option
@click.pass_context
def list_images(context: click.Context) -> None:
    """List the images, newest first."""
    with _opened(context) as (services, project_id):
        offset, total = 0, 1
        while offset < total:
            page, total = services.library.images.page(
                project_id, limit=MAX_PAGE_SIZE, offset=offset
            )
            for each in page:
                size = f"{each.width}x{each.height}"
                click.echo(f"{each.id}  {each.source:<9}  {size:<9}  {each.alias or ''}".rstrip())
            offset += MAX_PAGE_SIZE


@images.command("path")
@data_dir_option
@click.argument("image", metavar="ID|ALIAS", type=Text())
@click.pass_context
def image_path(context: click.Context, image: str) -> None:
    """Print the path of an image's file."""
    with _opened(context) as (services, project_id):
        found = services.library.images.get(project_id, image)
        click.echo(services.files.path(found.storage_key))


@images.command("alias")
@data_dir_option
@click.argument("image", metavar="ID|ALIAS", type=Text())
@click.argument("alias", required=False, type=Text())
@click.pass_context
def name_image(context: click.Context, image: str, alias: str | None) -> None:
    """Give an image an alias, or take it away."""
    with _opened(context) as (services, project_id):
        services.library.set_alias(project_id, image, alias)


@images.command("delete")
@data_dir_option
@click.argument("image", metavar="ID|ALIAS", type=Text())
@click.pass_context
def delete_image(context: click.Context, image: str) -> None:
    """Delete an image and its file for good."""
    with _opened(context) as (services, project_id):
        click.echo(f"Deleted {services.library.delete_image(project_id, image).id}")


@click.group()
def flows() -> None:
    """List and delete flows."""


@flows.command("list")
@data_dir_option
@click.pass_context
def list_flows(context: click.Context) -> None:
    """List the flows, newest first."""
    with _opened(context) as (services, project_id):
        offset, total = 0, 1
        while offset < total:
            page, total = services.library.flows.page(
                project_id, limit=MAX_PAGE_SIZE, offset=offset
            )
            for flow in page:
                counts = f"{flow.generation_count} generations, {flow.image_count} images"
                click.echo(f"{flow.id}  {counts}  {' '.join(flow.aliases)}".rstrip())
            offset += MAX_PAGE_SIZE


@flows.command("delete")
@data_dir_option
@click.argument("flow", metavar="ID", type=Text())
@click.pass_context
def delete_flow(context: click.Context, flow: str) -> None:
    """Delete a flow with its generations and images; an image with an alias stays."""
    with _opened(context) as (services, project_id):
        services.library.delete_flow(project_id, flow)
        click.echo(f"Deleted {flow}")


def store_file(services: Services, project_id: str, file: Path, alias: str | None = None) -> Image:
    """Upload a file of this machine. Raises ValidationError and AliasConflict."""
    from banatie.library import UploadRequest

    upload = services.library.decode(file.read_bytes())
    return services.library.add(project_id, upload, UploadRequest(alias=alias))


@contextmanager
def _opened(context: click.Context) -> Iterator[tuple[Services, str]]:
    """The services, and the id of the default project."""
    from banatie.services import open_services

    services = open_services(config_of(context, quiet=True), now)
    try:
        yield services, services.keys.default_project_id(now())
    finally:
        services.close()
