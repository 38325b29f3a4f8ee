"""Settings: three sources, one order, and an error that names what is wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from banatie.config import Config, environment_name, load_config
from banatie.errors import ConfigError

SHIPPED = Path(__file__).parents[1] / "config.toml"


def test_the_shipped_file_lists_every_setting_with_its_default():
    defaults = msgspec.json.decode(msgspec.json.encode(Config()))
    assert tomllib.loads(SHIPPED.read_text("utf-8")) == defaults


def test_the_shipped_file_explains_every_setting():
    lines = SHIPPED.read_text("utf-8").splitlines()
    settings = [number for number, line in enumerate(lines) if " = " in line and line[0] != "#"]
    groups = [n for n in settings if lines[n - 1].startswith(("#", "host", "["))]
    assert groups == settings


def test_later_sources_win(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text("[server]\nport = 1\nhost = 'file'\n[limits]\nqueue_size = 5\n")
    environment = {"BANATIE_SERVER__PORT": "2", "BANATIE_STORAGE__METADATA": "false", "HOME": "/"}
    config = load_config(file, environment, {"server.port": 3})
    assert config.server.port == 3
    assert config.server.host == "file"
    assert config.limits.queue_size == 5
    assert config.storage.metadata is False
    assert load_config(file, environment).server.port == 2


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"BANATIE_SERVER__PROT": "1"}, "unknown setting 'server.prot'"),
        ({"BANATIE_NOWHERE__X": "1"}, "unknown setting 'nowhere'"),
        ({"BANATIE_SERVER__PORT": "many"}, "server.port: expected `int`, got `str`"),
        ({"BANATIE_SERVER__PORT": "70000"}, "server.port: expected `int` <= 65535"),
        ({"BANATIE_LOG__LEVEL": "loud"}, "log.level"),
        ({"BANATIE_SERVER__CORS_ORIGINS": "https://a.example/"}, "server.cors_origins"),
        ({"BANATIE_SERVER__CORS_ORIGINS": "a.example"}, "server.cors_origins"),
        ({"BANATIE_SERVER__TRUSTED_PROXIES": "::1,nginx"}, "trusted_proxies: 'nginx' is no"),
        ({"BANATIE_PAINTING__DEVICES": ""}, "devices: there must be one"),
        ({"BANATIE_PAINTING__DEVICES": "cpu,auto"}, "devices: auto stands for all"),
    ],
)
def test_a_wrong_setting_is_named_with_its_source(environment, message):
    with pytest.raises(ConfigError) as caught:
        load_config(None, environment)
    assert str(caught.value).startswith("the environment: ")
    assert message in str(caught.value)


def test_commas_make_a_list_of_a_text(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text("[server]\ncors_origins = ['https://a.example']\n")
    environment = {"BANATIE_SERVER__TRUSTED_PROXIES": "10.0.0.0/8, ::1"}
    config = load_config(file, environment)
    assert config.server.cors_origins == ("https://a.example",)
    assert config.server.trusted_proxies == ("10.0.0.0/8", "::1")
    none = load_config(file, environment, {"server.cors_origins": ""})
    assert none.server.cors_origins == ()


@pytest.mark.parametrize("text", ["port = ", "[server]\nport = 1\nport = 2", "port = 3000", "\xff"])
def test_a_broken_file_is_named(tmp_path, text):
    file = tmp_path / "mine.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        load_config(file, {})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml", {})


def test_environment_names():
    assert environment_name("server.public_url") == "BANATIE_SERVER__PUBLIC_URL"
