"""Every setting as frozen objects: `config.toml`, `BANATIE_SECTION__KEY`, the command line.

The later source wins. A key that no section knows is an error, never ignored. Relative paths are
taken from the folder the program was started in.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from banatie.errors import ConfigError

ENVIRONMENT_PREFIX = "BANATIE_"

Port = Annotated[int, Meta(ge=0, le=65535)]
NotNegative = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
Origin = Annotated[str, Meta(pattern=r"^(\*|https?://[^/\s]+)$")]
"""What a browser sends in its Origin header: no path, no slash at the end."""


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the server answers."""

    host: str = "127.0.0.1"
    port: Port = 3000
    public_url: str = ""
    trusted_proxies: tuple[str, ...] = ()
    cors_origins: tuple[Origin, ...] = ()
    metrics: bool = True

    def __post_init__(self) -> None:
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy, strict=False)
            except ValueError:
                raise ValueError(f"trusted_proxies: {proxy!r} is no address or network") from None


class Storage(Struct, frozen=True, forbid_unknown_fields=True):
    """Where things lie and how long."""

    data_dir: str = "data"
    models_dir: str = "models"
    metadata: bool = True
    bin_days: NotNegative = 30

    @property
    def data(self) -> Path:
        """The data folder."""
        return Path(self.data_dir).expanduser()

    @property
    def models(self) -> Path:
        """The folder of the models."""
        return Path(self.models_dir).expanduser()


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What a client may ask for."""

    requests_per_hour: NotNegative = 100
    queue_size: Positive = 1000
    prompt_characters: Positive = 4000
    meta_bytes: Positive = 16384
    body_bytes: Positive = 1048576
    body_seconds: Annotated[float, Meta(gt=0)] = 30.0
    failed_keys_per_minute: NotNegative = 30


class EnhancementSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The language model and how long it may take."""

    model: str = "smollm2-135m-instruct"
    memory: Literal["auto", "device", "swap", "cpu"] = "auto"
    response_wait: Seconds = 5.0
    time_limit: Seconds = 20.0


class Painting(Struct, frozen=True, forbid_unknown_fields=True):
    """The painting model and where it computes."""

    model: str = "banatie-small"
    devices: tuple[str, ...] = ("auto",)
    threads: NotNegative = 0
    memory: Literal[
        "auto", "resident", "offload-encoders", "offload-layers", "offload-layers-fp8"
    ] = "auto"
    max_batch: NotNegative = 1
    compile: bool = False
    previews: bool = True

    def __post_init__(self) -> None:
        if not self.devices:
            raise ValueError("devices: there must be one; auto takes what there is")
        if "auto" in self.devices and len(self.devices) > 1:
            raise ValueError("devices: auto stands for all devices, and so stands alone")


class Worker(Struct, frozen=True, forbid_unknown_fields=True):
    """How stubborn the worker is."""

    max_retries: NotNegative = 2


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged, and how."""

    level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$")] = "info"
    format: Annotated[str, Meta(pattern="^(text|json)$")] = "text"


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings."""

    server: Server = Server()
    storage: Storage = Storage()
    limits: Limits = Limits()
    enhancement: EnhancementSettings = EnhancementSettings()
    painting: Painting = Painting()
    worker: Worker = Worker()
    log: Log = Log()


def load_config(
    path: Path | None,
    environment: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """The settings of the file at `path` (None: no file), the environment and `overrides`.

    `overrides` maps `section.key` to a value. Raises ConfigError naming the setting and its source.
    """
    config = Config()
    if path is not None:
        config = _merge(config, _read(path), str(path))
    settings = _nest(_from_environment(environment))
    config = _merge(config, settings, "the environment")
    return _merge(config, _nest(overrides or {}), "the command line")


def write_setting(path: Path, setting: str, value: str) -> None:
    """Set `section.key` to a text in the file at `path`, which is made if there is none.

    Only that line changes: comments and all else stay. Raises ConfigError when it cannot be done.
    """
    section, _, key = setting.partition(".")
    before = _read(path) if path.exists() else {}
    # What JSON writes for a text, TOML reads as the same text.
    line = f"{key} = {json.dumps(value, ensure_ascii=False)}"
    # A link stays a link.
    target = path.resolve()
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        text = target.read_bytes().decode("utf-8") if target.exists() else ""
        edited = _with_line(text, section, key, line)
        if tomllib.loads(edited) != {**before, section: {**before.get(section, {}), key: value}}:
            raise ValueError("it is written in an unusual way")
        unfinished.write_bytes(edited.encode())
        if target.exists():
            shutil.copymode(target, unfinished)
        os.replace(unfinished, target)
    except (OSError, ValueError, TypeError) as error:
        unfinished.unlink(missing_ok=True)
        raise ConfigError(
            f"{path} cannot be changed ({error}); write this under [{section}] yourself: {line}"
        ) from error


def _with_line(text: str, section: str, key: str, line: str) -> str:
    """The TOML `text` with `line` in the place of the section's `key`, or added to it."""
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.split("\n")
    header = re.compile(rf"\s*\[\s*{re.escape(section)}\s*\]\s*(#.*)?")
    start = next((n for n, each in enumerate(lines) if header.fullmatch(each.rstrip())), None)
    if start is None:
        gap = "" if not text else end if text.endswith("\n") else end * 2
        return f"{text}{gap}[{section}]{end}{line}{end}"
    value = r"\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^#]*?"
    given = re.compile(rf"(\s*){re.escape(key)}\s*=\s*(?:{value})(\s*#[^\r]*)?(\r?)")
    for number in range(start + 1, len(lines)):
        if lines[number].lstrip().startswith("["):
            break
        if found := given.fullmatch(lines[number]):
            lines[number] = found[1] + line + (found[2] or "") + found[3]
            return "\n".join(lines)
    lines[start + 1 : start + 1] = [line + end.removesuffix("\n")]
    return "\n".join(lines)


def environment_name(setting: str) -> str:
    """The environment variable of `section.key`."""
    return ENVIRONMENT_PREFIX + setting.upper().replace(".", "__")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    # Only names with the double underscore are settings; BANATIE_CONFIG and the like are not.
    return {
        name[len(ENVIRONMENT_PREFIX) :].lower().replace("__", "."): value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name
    }


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for setting, value in flat.items():
        section, _, key = setting.partition(".")
        nested.setdefault(section, {})[key] = value
    return nested


def _merge(config: Config, settings: Mapping[str, Any], source: str) -> Config:
    merged = msgspec.to_builtins(config)
    for section, values in settings.items():
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: {section!r} stands outside any section")
        known = merged.setdefault(section, {})
        for key, value in values.items():
            if isinstance(value, str) and isinstance(known.get(key), list | tuple):
                # Outside the file, where there are only texts, commas make a list.
                known[key] = [each.strip() for each in value.split(",") if each.strip()]
            else:
                known[key] = value
    try:
        # Not strict, so that the environment's texts become numbers and booleans.
        return msgspec.convert(merged, Config, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_readable(str(error))}") from error


def _readable(message: str) -> str:
    """msgspec's message, with the setting's name in front instead of a path at the end."""
    unknown = re.fullmatch(r"Object contains unknown field `(.+?)`(?: - at `\$\.?(.*)`)?", message)
    if unknown:
        section, key = unknown[2], unknown[1]
        return f"unknown setting {f'{section}.{key}' if section else key!r}"
    reason, _, place = message.partition(" - at `$.")
    return f"{place.rstrip('`')}: {reason[0].lower()}{reason[1:]}" if place else reason
