"""Settings: three sources, one order, and an error that names what is wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from banatie.config import Config, environment_name, load_config, write_setting
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
        ({"BANATIE_SERVER__TRUSTED_PROXIES": "::1,nginx"}, "trusted_proxies: 'nginx' is not"),
        ({"BANATIE_PAINTING__DEVICES": ""}, "devices: name at least one"),
        ({"BANATIE_PAINTING__DEVICES": "cpu,auto"}, "devices: auto means all"),
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


def test_a_byte_order_mark_is_read_over(tmp_path):
    """Editors on Windows write one."""
    file = tmp_path / "config.toml"
    file.write_bytes(b"\xef\xbb\xbf[server]\nport = 4000\n")
    assert load_config(file, {}).server.port == 4000
    write_setting(file, "painting.model", "mine")
    config = load_config(file, {})
    assert (config.server.port, config.painting.model) == (4000, "mine")


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("", ""),
        ("https://pictures.example.org", "https://pictures.example.org"),
        ("https://pictures.example.org/", "https://pictures.example.org"),
        ("http://10.0.0.1:3000/banatie//", "http://10.0.0.1:3000/banatie"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_the_public_url_is_a_base_without_a_slash_at_its_end(url, base):
    config = load_config(None, {}, {"server.public_url": url})
    assert config.server.base_url == base


@pytest.mark.parametrize(
    "url",
    [
        "pictures.example.org",
        "ftp://pictures.example.org",
        "https://",
        "https://user:password@example.org",
        "https://example.org/?a=b",
        "https://example.org/#top",
        "https://exa mple.org",
        "https://example.org:port",
    ],
)
def test_a_public_url_that_no_client_could_use_is_refused(url):
    with pytest.raises(ConfigError, match=r"public_url"):
        load_config(None, {}, {"server.public_url": url})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml", {})


def test_environment_names():
    assert environment_name("server.public_url") == "BANATIE_SERVER__PUBLIC_URL"


# Writing a setting

COMMENTED = """\
# Banatie's settings.

[server]
port = 3000  # of the web server

[painting]
# The painting model.
model = "banatie-small"   # the one that came with it
devices = ["auto"]

[worker]
max_retries = 2
"""


def written(path: Path, text: str, setting: str = "painting.model", value: str = "mine") -> str:
    path.write_bytes(text.encode())
    write_setting(path, setting, value)
    return path.read_bytes().decode()


def test_only_the_line_of_the_setting_changes(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    expected = COMMENTED.replace('"banatie-small"', '"mine"')
    assert written(path, COMMENTED) == expected
    assert load_config(path, {}).painting.model == "mine"
    windows = COMMENTED.replace("\n", "\r\n")
    assert written(path, windows) == windows.replace('"banatie-small"', '"mine"')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", '[painting]\nmodel = "mine"\n'),
        ("# Mine.\n", '# Mine.\n\n[painting]\nmodel = "mine"\n'),
        ("[server]\nport = 1", '[server]\nport = 1\n\n[painting]\nmodel = "mine"\n'),
        ("[server]\nport = 1\n", '[server]\nport = 1\n\n[painting]\nmodel = "mine"\n'),
        (
            '[painting]\ndevices = ["cpu"]\n\n[worker]\nmax_retries = 1\n',
            '[painting]\ndevices = ["cpu"]\nmodel = "mine"\n\n[worker]\nmax_retries = 1\n',
        ),
        ("[painting]", '[painting]\nmodel = "mine"\n'),
        ("[painting]\r\n", '[painting]\r\nmodel = "mine"\r\n'),
        ("[ painting ] # p\n#model = 1\n", '[ painting ] # p\n#model = 1\nmodel = "mine"\n'),
        ("[painting]\n  model='old'#c\n", '[painting]\n  model="mine"#c\n'),
        ('[painting]\nmodel = "a # b"\n', '[painting]\nmodel = "mine"\n'),
        ('[painting]\nmodel = "a"', '[painting]\nmodel = "mine"'),
        (
            '[enhancement]\nmodel = "x"\n[painting]\nmodel = "a"\n',
            '[enhancement]\nmodel = "x"\n[painting]\nmodel = "mine"\n',
        ),
        ('painting.model = "dotted"\n', 'painting.model = "mine"\n'),
        ('painting = { model = "inline" }\n', 'painting = { model = "mine" }\n'),
        ('[painting]\nmodel = """\nlong"""\n', '[painting]\nmodel = "mine"\n'),
        (
            '[painting]\nnote = """\n[painting]\n"""\n[painting.more]\nmodel = [\n1]\n',
            '[painting]\nnote = """\n[painting]\n"""\nmodel = "mine"\n\n'
            "[painting.more]\nmodel = [\n1]\n",
        ),
    ],
)
def test_the_setting_finds_its_place(tmp_path: Path, text: str, expected: str) -> None:
    assert written(tmp_path / "config.toml", text) == expected


@pytest.mark.parametrize("value", ['a "quoted" one', "C:\\models\\mine", "café/モデル", "a#b", ""])
def test_any_text_is_written_so_that_it_is_read_again(tmp_path: Path, value: str) -> None:
    path = tmp_path / "config.toml"
    written(path, COMMENTED, value=value)
    assert load_config(path, {}).painting.model == value


def test_a_file_is_made_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    write_setting(path, "enhancement.model", "mine")
    assert path.read_text() == '[enhancement]\nmodel = "mine"\n'
    assert [each.name for each in tmp_path.iterdir()] == ["config.toml"]


def test_a_link_and_its_file_s_rights_stay(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text(COMMENTED)
    real.chmod(0o640)
    link = tmp_path / "config.toml"
    link.symlink_to(real)
    write_setting(link, "painting.model", "mine")
    assert link.is_symlink()
    assert load_config(real, {}).painting.model == "mine"
    assert real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("text", ["painting = 3\n", "[[painting]]\nmodel = 'x'\n"])
def test_what_is_no_section_is_left_to_the_user(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    with pytest.raises(ConfigError, match=r"under \[painting\] yourself: model = \"mine\""):
        written(path, text)
    assert path.read_text() == text
    assert [each.name for each in tmp_path.iterdir()] == ["config.toml"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.symlink_to(tmp_path / "no folder" / "config.toml")
    with pytest.raises(ConfigError, match=r"config\.toml cannot be changed \(No such file"):
        write_setting(path, "painting.model", "mine")


def test_the_shipped_file_is_edited_in_one_line(tmp_path: Path) -> None:
    before = SHIPPED.read_text("utf-8")
    after = written(tmp_path / "config.toml", before)
    expected = before.replace('\nmodel = "banatie-small"', '\nmodel = "mine"')
    assert (after, after != before) == (expected, True)


def test_a_file_that_is_no_toml_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[painting\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        write_setting(path, "painting.model", "mine")
    assert path.read_text() == "[painting\n"
