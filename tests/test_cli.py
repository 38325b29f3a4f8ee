"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import re

import pytest

import banatie
from banatie.cli import cli, run


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder; gives exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        status = run(list(arguments))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def test_version(command):
    assert command("version") == (0, f"{banatie.__version__}\n", "")


def test_creating_a_key_prints_the_key_and_nothing_else(command):
    status, out, err = command("keys", "create", "--name", "laptop")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"bnt_[A-Za-z0-9_-]+\n", out)


def test_keys_are_listed_and_revoked_without_their_texts(command):
    key = command("keys", "create", "--name", "laptop", "--expires-in-days", "3")[1].strip()
    listed = command("keys", "list")[1]
    assert "laptop" in listed
    assert "until " in listed
    assert key not in listed
    assert command("keys", "revoke", "laptop")[0] == 0
    assert "revoked" in command("keys", "list")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["serve", "--port", "many"], "'many' is not a valid integer"),
        (["serve", "--port", "0"], "not in the range"),
        (["generate"], "Missing argument 'PROMPT'"),
        (["generate", "x", "--aspect-ratio", "4:3"], "'4:3' is not one of"),
        (["generate", "x", "-o", "nowhere/x.png"], "there is no folder nowhere"),
        (["generate", "x", "--lora", "ink:much"], "'much' is no number"),
        (["generate", "x", "--lora", "ink:5"], "5 is not from -4 to 4"),
        (["generate", "x", "--lora", "ink:nan"], "nan is not from -4 to 4"),
        (["models", "import", "none.safetensors"], "'none.safetensors' does not exist"),
        (["keys", "create"], "Missing option '--name'"),
        (["--set", "server.prot=1", "migrate"], "unknown setting 'server.prot'"),
        (["--set", "nonsense", "migrate"], "SECTION.KEY=VALUE"),
        (["--config", "none.toml", "migrate"], "none.toml cannot be read"),
    ],
)
def test_what_is_not_understood_is_one_line_and_exit_code_2(command, arguments, message):
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("banatie: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keys", "revoke", "nobody"], "No key called 'nobody'"),
        (["models", "pull", "nothing"], "nothing"),
        (["generate", "x", "--lora", "ink:0.5"], "there is no LoRA called 'ink' here"),
    ],
)
def test_what_fails_is_one_line_and_exit_code_1(command, arguments, message):
    status, out, err = command(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith("banatie: ")
    assert err.count("\n") == 1
    assert message in err


def test_migrating_says_what_it_did(command):
    applied = command("migrate")[1].splitlines()
    assert applied[:2] == ["applied create_tables", "applied add_measures"]
    assert all(line.startswith("applied ") for line in applied)
    assert command("migrate")[1] == "The database is up to date\n"


def test_models_are_listed_with_what_is_in_use(command):
    out = command("models", "list")[1]
    line = next(line for line in out.splitlines() if line.startswith("smollm2-135m-instruct"))
    assert "language" in line
    assert "in use" in line


def test_every_command_says_what_it_is_for():
    for group in (cli, cli.commands["keys"], cli.commands["models"]):
        for name, subcommand in group.commands.items():
            assert subcommand.help, name
