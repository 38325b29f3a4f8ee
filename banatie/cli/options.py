"""The settings of a command: configuration file, environment, `--set`, then the command's options.

Which options a command has is up to the commands; what a setting means is up to `config`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from banatie.config import Config, load_config
from banatie.logs import configure_logging

if TYPE_CHECKING:
    from banatie.store.database import Database


def now() -> int:
    """The time in milliseconds since 1970 in UTC."""
    return time.time_ns() // 1_000_000


def config_of(context: click.Context, **options: object) -> Config:
    """Load the settings, with a command's own options on top, and configure logging.

    An option `section__key=value` overrides that setting unless it is None. Raises ConfigError.
    """
    path, overrides = global_options(context)
    given = {name.replace("__", "."): value for name, value in options.items() if value is not None}
    config = load_config(path, os.environ, {**overrides, **given})
    configure_logging(config.log.level, config.log.format)
    return config


def global_options(context: click.Context) -> tuple[Path | None, dict[str, str]]:
    """The configuration file, if there is one, and the settings given with `--set`."""
    path, overrides = context.find_root().obj
    return path, overrides


def worker_command(context: click.Context, data_dir: str | None = None) -> list[str]:
    """The command line of a worker with the same settings as this process."""
    path, overrides = global_options(context)
    command = [sys.executable, "-m", "banatie"]
    if path is not None:
        command += ["--config", str(path)]
    for name, value in overrides.items():
        command += ["--set", f"{name}={value}"]
    command += ["worker", "--until-stdin-closes"]
    return [*command, "--data-dir", data_dir] if data_dir else command


def open_database(context: click.Context) -> Database:
    """The database of the data folder, which is created if it does not exist; not migrated."""
    from banatie.store.backup import finish_restore
    from banatie.store.database import Database

    data = config_of(context).storage.data
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    finish_restore(data)
    return Database(data / "banatie.db")
