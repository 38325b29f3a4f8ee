"""The settings of a command: what stands before it on the line, and its own options on top.

Which options there are is for the commands; what a setting means, for `config`.
"""

from __future__ import annotations

import os
from typing import Any

import click

from banatie import logs
from banatie.config import Config, load_config


def config_of(context: click.Context, **options: Any) -> Config:
    """The settings, with a command's own options on top; sets up logging as they say."""
    path, overrides = context.find_root().obj
    given = {name.replace("__", "."): value for name, value in options.items() if value is not None}
    config = load_config(path, os.environ, {**overrides, **given})
    logs.set_up(config.log.level, config.log.format)
    return config
