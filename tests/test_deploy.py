"""What Banatie is deployed with agrees with itself, with the settings and with the program."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from banatie.cli.main import cli
from banatie.config import Config, load_config

ROOT = Path(__file__).parents[1]
CHECK = runpy.run_path(str(ROOT / "scripts" / "check-container"))
STEPS = CHECK["instructions"]()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def values(word: str) -> list[str]:
    """The arguments of every such instruction in Dockerfile.gpu."""
    return [rest for found, rest in STEPS if found == word]


def copied() -> list[str]:
    """Every path that Dockerfile.gpu takes from this folder."""
    return [source for rest in values("COPY") for source in rest.split()[:-1]]


def unit() -> list[tuple[str, str]]:
    text = (ROOT / "deploy" / "banatie.service").read_text("utf-8")
    return re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))


def test_what_the_container_copies_is_there_and_let_through():
    let_through = CHECK["let_through"]
    assert len(copied()) > 5
    for source in copied():
        path = ROOT / source
        assert path.exists(), source
        files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        names = [file.relative_to(ROOT).as_posix() for file in files]
        assert [name for name in names if let_through(name)], f".dockerignore keeps back {source}"


@pytest.mark.parametrize(
    "name",
    [
        "data/banatie.db",
        ".git/config",
        "models/smollm2-135m-instruct/model.safetensors",
        "models/README.md",
        "banatie/__pycache__/cli.cpython-312.pyc",
        "banatie/api/__pycache__/app.cpython-312.pyc",
        "tests/conftest.py",
        ".env",
    ],
)
def test_nothing_else_gets_into_the_container(name: str):
    assert not CHECK["let_through"](name)


def test_every_argument_of_the_container_leads_to_a_stage():
    stages = [rest.split(" AS ")[1] for rest in values("FROM") if " AS " in rest]
    assert values("FROM")[-1] == "${DEVICE}"
    assert {"cuda", "cpu"} <= set(stages)
    assert "DEVICE=cuda" in values("ARG")
    for rest in values("RUN"):
        for taken in re.findall(r"from=(\w+)", rest):
            assert taken in stages


def test_the_container_runs_as_a_user_without_rights():
    [user] = values("USER")
    assert user == "1000:1000"
    assert any("useradd --uid 1000 " in rest for rest in values("RUN"))
    words = [word for word, _ in STEPS]
    assert max(n for n, word in enumerate(words) if word in ("RUN", "COPY")) < words.index("USER")


def test_the_container_gets_signals_itself_and_runs_a_command_that_exists():
    [entrypoint], [command] = values("ENTRYPOINT"), values("CMD")
    assert json.loads(entrypoint) == [next(iter(PROJECT["project"]["scripts"]))]
    assert json.loads(command)[0] in cli.commands


def test_the_container_asks_the_port_and_writes_the_folders_of_the_settings():
    environment = dict(pair.split("=", 1) for rest in values("ENV") for pair in shlex.split(rest))
    config = load_config(ROOT / "config.toml", environment)
    assert config == load_config(None, {"BANATIE_SERVER__HOST": "0.0.0.0"})
    workdir = values("WORKDIR")[-1]
    [volumes], [port], [health] = values("VOLUME"), values("EXPOSE"), values("HEALTHCHECK")
    assert json.loads(volumes) == [
        f"{workdir}/{folder}" for folder in (config.storage.data_dir, config.storage.models_dir)
    ]
    assert int(port) == config.server.port
    python, option, code = json.loads(health.partition("CMD ")[2])
    assert (python, option) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert f"'127.0.0.1', {config.server.port}," in code
    assert "'/health'" in code


def test_compose_runs_what_is_built(compose: dict):
    assert set(compose["services"]) == {"gpu", "cpu"}
    [volumes] = values("VOLUME")
    stages = [rest.split(" AS ")[1] for rest in values("FROM") if " AS " in rest]
    for name, service in compose["services"].items():
        assert service["profiles"] == [name]
        build = service["build"]
        assert (ROOT / build["context"] / build["dockerfile"]).is_file()
        assert build.get("args", {}).get("DEVICE", "cuda") in stages
        # From outside, the port is the machine's own only.
        port = Config().server.port
        assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
        mounts = dict(mount.split(":")[:2] for mount in service["volumes"])
        assert list(mounts.values()) == json.loads(volumes)
        assert set(mounts) == set(compose["volumes"])
        assert service["init"] is True
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    [device] = compose["services"]["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "deploy" not in compose["services"]["cpu"]


def test_the_unit_starts_a_command_that_exists():
    settings = dict(unit())
    program, command = settings["ExecStart"].split()
    assert Path(program).name in PROJECT["project"]["scripts"]
    assert command in cli.commands
    # Relative to there, the settings' own folders are those that it may write.
    assert settings["WorkingDirectory"] == f"/var/lib/{settings['StateDirectory']}"
    assert not Path(Config().storage.data_dir).is_absolute()
    # A wrong setting ends with this code.
    assert settings["RestartPreventExitStatus"] == "2"


def test_the_unit_gives_no_rights_and_no_way_out():
    settings = dict(unit())
    assert settings["User"] == "banatie"
    assert settings["CapabilityBoundingSet"] == ""
    assert settings["IPAddressDeny"] == "any"
    assert settings["ProtectSystem"] == "strict"
    assert settings["NoNewPrivileges"] == "true"


def test_the_way_to_deploy_names_commands_files_and_images_that_exist(compose: dict):
    text = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    lines = "\n".join(_shell_lines(text)).replace("sudo -u banatie ", "")
    for command in re.findall(r"banatie ((?:[a-z]+))\b(?=[ `\n])", lines):
        assert command in cli.commands, command
    for service in re.findall(r"docker compose (?:run --rm|exec|up --detach|logs) (\w+)", text):
        assert service in compose["services"], service
    for path in re.findall(r"`?((?:deploy|scripts)/[\w.-]+)`?", text):
        if path != "deploy/md":
            assert (ROOT / path).exists(), path


def test_the_script_can_be_run():
    assert os.access(ROOT / "scripts" / "check-container", os.X_OK)


def _shell_lines(text: str) -> list[str]:
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]
