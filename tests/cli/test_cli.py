"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import banatie
from banatie.cli.main import cli, run
from banatie.models.manifest import Manifest, file_digests, write_manifest


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


def test_a_master_key_is_listed_as_one_and_does_not_expire(command):
    assert command("keys", "create", "--name", "admin", "--type", "master")[0] == 0
    command("keys", "create", "--name", "laptop")
    master, laptop = command("keys", "list")[1].splitlines()
    assert master.endswith("  active            default/default  admin  (master)")
    assert laptop.endswith("  active            default/default  laptop")
    status, out, err = command(
        *("keys", "create", "--name", "k", "--type", "master", "--expires-in-days", "3")
    )
    assert (status, out) == (1, "")
    assert "a master key does not expire" in err


def test_projects_are_created_once_and_listed(command):
    status, project_id, _ = command("projects", "create", "site", "--organization", "acme")
    assert status == 0
    assert command("projects", "create", "site", "--organization", "acme")[1] == project_id
    command("keys", "create", "--name", "k", "--project", "site", "--organization", "acme")
    command("keys", "create", "--name", "k")
    one, two = command("projects", "list")[1].splitlines()
    assert re.fullmatch(project_id.strip() + r"  acme/site +  1 key, 0 generations", one)
    assert "default/default" in two
    place = ("site", "--organization", "acme")
    assert "existing scopes only" in command("projects", "set", *place, "--no-new-scopes")[1]
    assert "no new scopes" in command("projects", "list")[1].splitlines()[0]
    assert command("projects", "set", *place, "--new-scopes")[0] == 0
    assert "scopes" not in command("projects", "list")[1]
    assert command("projects", "set", "site", "--new-scopes") == (
        *(1, "", "banatie: No project default/site\n"),
    )
    status, out, err = command("projects", "create", "My Site")
    assert (status, out) == (1, "")
    assert "project: takes letters a to z, digits and hyphens" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["serve", "--port", "many"], "'many' is not a valid integer"),
        (["serve", "--port", "0"], "not in the range"),
        (["generate"], "Missing argument 'PROMPT'"),
        (["generate", "x", "--aspect-ratio", "4:3"], "'4:3' is not one of"),
        (["generate", "x", "-o", "nowhere/x.png"], "there is no folder nowhere"),
        (["generate", "x", "-o", "x" * 300 + "/x.png"], "there is no folder xxx"),
        (["generate", "x", "-o", "/dev/full"], "/dev/full is a device; name a regular file"),
        (["generate", "x", "-o", "x.gif"], ".gif is no format of a picture here; use .png, .jpg"),
        (["generate", "a", "red", "fox"], 'put it in quotes: banatie generate "a red fox"'),
        (["keys", "create", "--name", "k", "--expires-in-days", "9" * 20], "not in the range"),
        (["keys", "create", "--name", "k", "--requests-per-hour", "9" * 20], "not in the range"),
        (["generate", "x", "--lora", "ink:much"], "the weight 'much' is not a number"),
        (["generate", "x", "--lora", "ink:5"], "the weight 5 is not from -4 to 4"),
        (["generate", "x", "--lora", "ink:nan"], "the weight nan is not from -4 to 4"),
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
        (["generate", "x", "--lora", "ink:0.5"], "no LoRA called 'ink' is installed"),
        (["generate", "x", *["--lora", "ink"] * 5], "loras: at most 4 can be used at once, not 5"),
        (["generate", "x" * 4001], "prompt: has 4001 characters; at most 4000"),
    ],
)
def test_what_fails_is_one_line_and_exit_code_1(command, arguments, message):
    status, out, err = command(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith("banatie: ")
    assert err.count("\n") == 1
    assert message in err


def test_what_nobody_foresaw_is_one_line_and_a_pointer_to_its_traceback(command, monkeypatch):
    def fail(_: object) -> None:
        raise RuntimeError("an\nodd error")

    monkeypatch.setattr("banatie.cli.keys._keys", fail)
    line = (
        "banatie: unexpected error: RuntimeError: an odd error; `banatie --debug …` shows where\n"
    )
    assert command("keys", "list") == (1, "", line)
    status, _, err = command("--debug", "keys", "list")
    assert (status, err.endswith(line)) == (1, True)
    assert err.startswith("Traceback (most recent call last):")


def test_every_command_that_uses_the_data_folder_takes_data_dir(command, tmp_path):
    made = command("keys", "create", "--name", "laptop", "--data-dir", "elsewhere")
    assert made[0] == 0
    assert "laptop" in command("keys", "list", "--data-dir", "elsewhere")[1]
    assert command("keys", "list")[1] == ""
    assert "banatie keys create --name NAME" in command("keys", "list")[2]
    others = ["generate", "serve", "worker", "migrate", "doctor", "backup", "restore"]
    for name in others:
        assert "--data-dir" in command(name, "--help")[1], name


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


@pytest.fixture
def models(tiny_sdxl, tmp_path, monkeypatch):
    """A folder of models that the commands see, with a pipeline that has a manifest."""
    folder = tmp_path / "models"
    model = Path(shutil.copytree(tiny_sdxl, folder / "mine"))
    facts = file_digests(model)
    write_manifest(model, Manifest("painting", "mine", "Mine", "MIT", "acme/mine", {}, facts))
    monkeypatch.setenv("BANATIE_STORAGE__MODELS_DIR", str(folder))
    return folder


def test_what_fits_is_recommended_with_the_commands_that_install_it(command, models, monkeypatch):
    monkeypatch.setenv("BANATIE_PAINTING__DEVICES", "cpu")
    monkeypatch.setenv("BANATIE_PAINTING__MODEL", "mine")
    out = command("models", "recommend")[1]
    assert re.match(r"cpu: \d+\.\d GB free for models\n", out)
    assert "\npainting  banatie-small, installed: a picture in seconds" in out
    assert out.endswith(
        "\n    banatie models use banatie-small\n    banatie models pull smollm2-135m-instruct\n"
    )
    status, _, error = command("--set", "painting.devices=nonsense", "models", "recommend")
    assert status == 2
    assert "'nonsense' cannot be used" in error


def test_a_model_is_listed_shown_used_exported_and_removed(command, models, tmp_path):
    listed = command("models", "list")[1]
    assert re.search(r"^mine +painting +installed +\d+ kB +MIT$", listed, re.MULTILINE)
    assert re.search(r"^sdxl-turbo +painting +- +6\.9 GB +Stability", listed, re.MULTILINE)
    shown = command("models", "show", "mine")[1]
    assert re.search(r"^from +acme/mine$", shown, re.MULTILINE)
    assert re.search(r"^steps +30$", shown, re.MULTILINE)
    used = command("models", "use", "mine")
    says = "config.toml: painting.model is mine; restart a running server to use it\n"
    assert used == (0, says, "")
    assert (tmp_path / "config.toml").read_text() == '[painting]\nmodel = "mine"\n'
    assert re.search(r"^mine .* in use +MIT$", command("models", "list")[1], re.MULTILINE)
    assert command("models", "verify", "mine")[:2] == (0, "mine: 14 files are unchanged\n")
    exported = command("models", "export", "mine", "stick.tar")
    assert re.fullmatch(r"stick\.tar: mine, 14 files, \d+ kB\n", exported[1])
    refused = command("models", "remove", "mine")
    assert (refused[0], "in use as painting.model" in refused[2]) == (1, True)
    removed = command("models", "remove", "mine", "--force")
    assert re.fullmatch(r"Removed mine: \d+ kB\n", removed[1])
    assert not (models / "mine").exists()


def test_a_setting_that_counts_more_than_the_file_is_named(command, models, monkeypatch):
    monkeypatch.setenv("BANATIE_PAINTING__MODEL", "banatie-small")
    status, out, err = command("models", "use", "mine")
    assert status == 0
    assert "painting.model is mine" in out
    assert err == "But BANATIE_PAINTING__MODEL is banatie-small, which takes precedence\n"


def test_a_folder_anywhere_can_be_used_and_is_listed(command, models, tmp_path):
    elsewhere = (models / "mine").rename(tmp_path / "elsewhere")
    assert command("models", "use", str(elsewhere))[0] == 0
    listed = command("models", "list")[1]
    assert re.search(rf"^{elsewhere} +painting +installed +in use", listed, re.MULTILINE)


def test_a_damaged_model_is_found_and_cannot_be_used(command, models):
    unet = models / "mine" / "unet" / "diffusion_pytorch_model.safetensors"
    unet.write_bytes(unet.read_bytes()[:-9])
    status, out, _ = command("models", "verify")
    assert status == 1
    assert "mine: unet/diffusion_pytorch_model.safetensors is changed\n" in out
    assert "mine: broken; remove it and install it again\n" in out
    status, _, err = command("models", "use", "mine")
    assert (status, "is incomplete" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nothing"], "no model is called 'nothing'"),
        (["use", "nothing"], "no model is called 'nothing'"),
        (["use", "sdxl-turbo"], "run: banatie models pull sdxl-turbo"),
        (["verify", "sdxl-turbo"], "run: banatie models pull sdxl-turbo"),
        (["export", "sdxl-turbo", "x.tar"], "run: banatie models pull sdxl-turbo"),
        (["remove", "sdxl-turbo"], "is not installed"),
        (["pull", "banatie-small"], "does not say where 'banatie-small' comes from"),
    ],
)
def test_what_cannot_be_done_with_a_model_is_said_in_a_line(command, models, arguments, message):
    status, out, err = command("models", *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("banatie: ")
    assert err.count("\n") == 1
    assert message in err


def test_options_of_another_source_are_a_mistake(command, models):
    status, _, err = command("models", "pull", "sdxl-turbo", "--fine-tuned")
    assert (status, "--wheel and --fine-tuned are not for sdxl-turbo" in err) == (2, True)


def test_every_command_says_what_it_is_for():
    for group in (cli, cli.commands["keys"], cli.commands["models"], cli.commands["projects"]):
        for name, subcommand in group.commands.items():
            assert subcommand.help, name
