"""The settings: read from `config.toml`, `BANATIE_SECTION__KEY` variables and the command line.

Precedence: the command line over the environment over the file. An unknown key is an error, never
ignored. Relative paths start at the current folder. What a setting does is up to the code that
reads it; `config.toml` documents each one.
"""

from __future__ import annotations

import base64
import codecs
import ipaddress
import os
import re
import shutil
import tomllib
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
import tomlkit
from msgspec import Meta, Struct

from banatie.errors import ConfigError

ENVIRONMENT_PREFIX = "BANATIE_"

_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}

Port = Annotated[int, Meta(ge=0, le=65535)]
NotNegative = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
Origin = Annotated[str, Meta(pattern=r"^(\*|https?://[^/\s]+)$")]
"""As a browser sends it in the Origin header: without a path or a trailing slash."""


def reachable_host(host: str) -> str:
    """The host to connect to for one to listen on: loopback for all addresses of a machine."""
    return _LOOPBACK_OF.get(host, host)


def _check_networks(name: str, networks: tuple[str, ...]) -> None:
    for network in networks:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise ValueError(f"{name}: {network!r} is not an address or network") from None


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP server: addresses, proxies, CORS, metrics."""

    host: str = "127.0.0.1"
    port: Port = 3000
    public_url: str = ""
    cdn_url: str = ""
    trusted_proxies: tuple[str, ...] = ()
    cors_origins: tuple[Origin, ...] = ()
    metrics: bool = True
    first_key: bool = True
    studio: bool = True

    def __post_init__(self) -> None:
        _check_networks("trusted_proxies", self.trusted_proxies)
        for name in ("public_url", "cdn_url"):
            url = getattr(self, name)
            if url and not _is_base_url(url):
                raise ValueError(
                    f"{name}: {url!r} is not the address of a server, such as "
                    "https://pictures.example.org"
                )

    @property
    def local_host(self) -> str:
        """Where a client on this machine reaches the server."""
        return reachable_host(self.host)

    @property
    def local_url(self) -> str:
        """The server's address on this machine."""
        host = self.local_host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def base_url(self) -> str:
        """`public_url` without a slash at its end; empty if it is not set."""
        return self.public_url.rstrip("/")


class Storage(Struct, frozen=True, forbid_unknown_fields=True):
    """The folders, and what is kept in them."""

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


class ImageSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How uploaded images are stored."""

    keep_metadata: bool = False


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """The limits that a configuration can change; the fixed ones are in `limits`."""

    requests_per_hour: NotNegative = 100
    queue_size: Positive = 1000
    prompt_characters: Positive = 4000
    meta_bytes: Positive = 16384
    body_bytes: Positive = 1048576
    body_seconds: Annotated[float, Meta(gt=0)] = 30.0
    failed_keys_per_minute: NotNegative = 30


class EnhancementSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The language model: which, where it runs, and its time limits."""

    model: str = "smollm2-135m-instruct"
    memory: Literal["auto", "device", "swap", "cpu"] = "auto"
    response_wait: Seconds = 5.0
    time_limit: Seconds = 20.0


class Painting(Struct, frozen=True, forbid_unknown_fields=True):
    """The painting model: which, on which devices, and how it uses their memory."""

    model: str = "banatie-small"
    ip_adapter: str = "auto"
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
            raise ValueError("devices: name at least one, or auto for all that are present")
        if "auto" in self.devices and len(self.devices) > 1:
            raise ValueError("devices: auto means all devices, so it cannot be combined")


class Worker(Struct, frozen=True, forbid_unknown_fields=True):
    """How a worker treats generations that crash it."""

    max_retries: NotNegative = 2


class LiveSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Live URLs: whether they make new images, how many, and how long a request waits for one."""

    generate: bool = True
    wait: Seconds = 60.0
    new_per_hour_address: NotNegative = 10
    new_per_hour_scope: Positive = 30


class Dialects(Struct, frozen=True, forbid_unknown_fields=True):
    """Other programs' protocols."""

    webui_without_key: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_networks("webui_without_key", self.webui_without_key)


class WebhookSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Webhooks: the secret of their signatures, whom to tell of all generations, and retries."""

    secret: str = ""
    urls: tuple[str, ...] = ()
    allow_private: bool = False
    attempts: Positive = 9
    first_retry: Annotated[float, Meta(gt=0)] = 5.0

    def __post_init__(self) -> None:
        if self.secret and not _is_webhook_secret(self.secret):
            raise ValueError(
                "secret: takes whsec_ and 24 to 64 bytes in base64, such as the output of "
                "`openssl rand -base64 32`"
            )
        if self.urls and not self.secret:
            raise ValueError("urls: needs secret, with which the messages are signed")
        for url in self.urls:
            if not _is_http_url(url):
                raise ValueError(f"urls: {url!r} is not a URL such as https://example.org/hook")


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """The level and the format of the log."""

    level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$")] = "info"
    format: Annotated[str, Meta(pattern="^(text|json)$")] = "text"


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings."""

    server: Server = Server()
    storage: Storage = Storage()
    images: ImageSettings = ImageSettings()
    limits: Limits = Limits()
    enhancement: EnhancementSettings = EnhancementSettings()
    painting: Painting = Painting()
    worker: Worker = Worker()
    live: LiveSettings = LiveSettings()
    dialects: Dialects = Dialects()
    webhooks: WebhookSettings = WebhookSettings()
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


def arguments_of(config: Config) -> list[str]:
    """The options that give another command exactly these settings, wherever they came from."""
    return [
        f"--set={section}.{key}={','.join(value) if isinstance(value, list | tuple) else value}"
        for section, settings in msgspec.to_builtins(config).items()
        for key, value in settings.items()
    ]


def write_setting(path: Path, setting: str, value: str) -> None:
    """Set `section.key` to a string in the file at `path`, which is created if it does not exist.

    Comments and everything else stay as they are. Replaces the file atomically; if it is a symbolic
    link, replaces the file that it points to. Raises ConfigError if the file cannot be changed.
    """
    section, _, key = setting.partition(".")
    before = _read(path) if path.exists() else {}
    target = path.resolve()
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        data = target.read_bytes() if target.exists() else b""
        # A byte order mark stays where there is one.
        encoding = "utf-8-sig" if data.startswith(codecs.BOM_UTF8) else "utf-8"
        edited = _with_setting(data.decode(encoding), section, key, value)
        if tomllib.loads(edited) != {**before, section: {**before.get(section, {}), key: value}}:
            raise ValueError("editing it would change other settings")
        unfinished.write_bytes(edited.encode(encoding))
        if target.exists():
            shutil.copymode(target, unfinished)
        os.replace(unfinished, target)
    except (OSError, ValueError) as error:
        unfinished.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) else error
        line = tomlkit.item(value).as_string()
        raise ConfigError(
            f"{path} cannot be changed ({reason}); write this under [{section}] yourself: "
            f"{key} = {line}"
        ) from error


def _with_setting(text: str, section: str, key: str, value: str) -> str:
    """The TOML `text` with this value. Raises ValueError if `section` is not a table."""
    document = tomlkit.parse(text)
    if section not in document and text and not text.endswith("\n"):
        document = tomlkit.parse(f"{text}\n")
    table = document.setdefault(section, tomlkit.table())
    if not isinstance(table, MutableMapping):
        raise ValueError(f"{section} is not a table")
    table[key] = value
    edited = tomlkit.dumps(document)
    if text.count("\n") == text.count("\r\n") > 0:
        # tomlkit ends the lines that it adds with \n alone.
        edited = edited.replace("\r\n", "\n").replace("\n", "\r\n")
    return edited


def _is_base_url(text: str) -> bool:
    """Whether paths can be appended to it to make URLs: no query, fragment or credentials."""
    try:
        parts = urlsplit(text)
        # Reading the port checks it.
        host = parts.hostname if parts.port is None or parts.port else None
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or "@" in parts.netloc or re.search(r"\s", text))
    return parts.scheme in ("http", "https") and bool(host) and plain


def _is_http_url(text: str) -> bool:
    """Whether it is a URL to send to: a query is fine, credentials and fragments are not."""
    return _is_base_url(text.partition("?")[0]) and "#" not in text and text.isascii()


def _is_webhook_secret(text: str) -> bool:
    """Whether it is a secret as Standard Webhooks writes it."""
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        return False
    return text.startswith("whsec_") and 24 <= len(key) <= 64


def environment_name(setting: str) -> str:
    """The environment variable of `section.key`."""
    return ENVIRONMENT_PREFIX + setting.upper().replace(".", "__")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
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
            raise ConfigError(f"{source}: {section!r} is outside any section")
        known = merged.setdefault(section, {})
        for key, value in values.items():
            if isinstance(value, str) and isinstance(known.get(key), list | tuple):
                # The environment and --set give strings only; commas separate a list there.
                known[key] = [each.strip() for each in value.split(",") if each.strip()]
            else:
                known[key] = value
    try:
        # Not strict, so that strings from the environment become numbers and booleans.
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
