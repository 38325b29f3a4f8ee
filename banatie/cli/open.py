"""`banatie open`: the address that signs a browser in."""

from __future__ import annotations

import os
import sys

import click

from banatie.cli.options import (
    address_options,
    config_of,
    data_dir_option,
    now,
    open_database,
)
from banatie.errors import ConfigError


def address_with_token(url: str, token: str) -> str:
    """The page's address that signs a browser in once.

    The token stands in the fragment, which a browser sends to no server and so to no log.
    """
    return f"{url}/#token={token}"


@click.command("open")
@address_options
@data_dir_option
@click.option("--print", "only_print", is_flag=True, help="Print the address and open nothing.")
@click.pass_context
def open_studio(context: click.Context, only_print: bool) -> None:
    """Open the studio in a browser, signed in; print the address, which works once."""
    from banatie.serve import answers, url_of
    from banatie.store.locks import running_server
    from banatie.store.sessions import Sessions

    config = config_of(context)
    if not config.server.studio:
        raise ConfigError("server.studio is false: this server has no page to open")
    if running_server(config.storage.data) is None:
        raise ConfigError(
            f"No server runs on the data folder {config.storage.data}; start it: banatie serve"
        )
    if not answers(config):
        raise ConfigError(
            f"No server answers at {config.server.host}:{config.server.port}; name the running "
            "one's --host and --port"
        )
    database = open_database(context)
    database.migrate()
    address = address_with_token(url_of(config), Sessions(database).create_token(now()))
    click.echo(address)
    sys.stdout.flush()
    if not only_print and _has_desktop():
        click.launch(address)


def _has_desktop() -> bool:
    """Whether a browser opened here would appear on the person's own screen."""
    if "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
