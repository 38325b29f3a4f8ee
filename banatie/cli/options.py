"""The settings of a command: configuration file, environment, `--set`, then the command's options.

Which options a command has is up to the commands; what a setting means is up to `config`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from banatie.config import Config, load_config
from banatie.errors import ConfigError
from banatie.logs import configure_logging

if TYPE_CHECKING:
    from banatie.store.database import Database

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass
class GlobalOptions:
    """The options that stand before the command."""

    path: Path | None = None
    """The configuration file, if there is one."""
    overrides: dict[str, str] = field(default_factory=dict)
    """The settings given with `--set`, and by the options of the command that stand for one."""
    debug: bool = False
    """Whether to show the traceback of an error."""


def now() -> int:
    """The time in milliseconds since 1970 in UTC."""
    return time.time_ns() // 1_000_000


def data_dir_option(command: Command) -> Command:
    """Add `--data-dir`, which stands for `--set storage.data_dir=…`, to a command."""

    def override(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            global_options(context).overrides["storage.data_dir"] = value

    add = click.option(
        "--data-dir",
        metavar="FOLDER",
        help="The folder of the database and the pictures.",
        expose_value=False,
        callback=override,
    )
    return add(command)


def address_options(command: Command) -> Command:
    """Add `--host` and `--port`, which stand for those settings of the server, to a command."""

    def override(context: click.Context, option: click.Parameter, value: object) -> None:
        if value is not None:
            global_options(context).overrides[f"server.{option.name}"] = str(value)

    for name, kind, text in (
        ("--port", click.IntRange(1, 65535), "The server's port."),
        ("--host", click.STRING, "The address that the server listens on."),
    ):
        command = click.option(name, type=kind, help=text, expose_value=False, callback=override)(
            command
        )
    return command


def studio_option(command: Command) -> Command:
    """Add `--no-studio`, which stands for `--set server.studio=false`, to a command."""

    def override(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            global_options(context).overrides["server.studio"] = "false"

    add = click.option(
        "--no-studio",
        is_flag=True,
        help="Leave the page out, and browsers' sessions: only programs with keys get in.",
        expose_value=False,
        callback=override,
    )
    return add(command)


def config_of(context: click.Context, *, quiet: bool = False) -> Config:
    """Load the settings and configure logging; `quiet` logs nothing but errors.

    Raises ConfigError.
    """
    globally = global_options(context)
    try:
        config = load_config(globally.path, os.environ, globally.overrides)
    except UnicodeError as error:
        # Such as a number with bytes in it that the terminal's encoding cannot decode.
        raise ConfigError("a setting contains bytes that are no text") from error
    configure_logging("error" if quiet else config.log.level, config.log.format)
    return config


def global_options(context: click.Context) -> GlobalOptions:
    """The options that stand before the command."""
    found: GlobalOptions = context.find_root().obj
    return found


def worker_command(context: click.Context) -> list[str]:
    """The command line of a worker with the same settings as this process."""
    options = global_options(context)
    command = [sys.executable, "-m", "banatie"]
    if options.path is not None:
        command += ["--config", str(options.path)]
    for name, value in options.overrides.items():
        command += ["--set", f"{name}={value}"]
    return [*command, "worker", "--until-stdin-closes"]


def open_database(context: click.Context) -> Database:
    """The database of the data folder, which is created if it does not exist; not migrated."""
    from banatie.store.backup import finish_restore
    from banatie.store.database import Database
    from banatie.store.files import make_data_folder

    data = config_of(context).storage.data
    make_data_folder(data)
    finish_restore(data)
    return Database(data / "banatie.db")
