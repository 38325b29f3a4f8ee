"""The command line beside a running service, and without one."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from banatie.store.database import Database
from banatie.store.generations import Generations
from tests.support.service import Service, free_port

MISTAKES = {
    "no such command": ["paint"],
    "no such option": ["serve", "--fast"],
    "no prompt": ["generate"],
    "unknown ratio": ["generate", "a cat", "--aspect-ratio", "4:3"],
    "seed too large": ["generate", "a cat", "--seed", str(2**53)],
    "no folder for the output": ["generate", "a cat", "-o", "nowhere/cat.png"],
    "port that is none": ["serve", "--port", "many"],
    "key without a name": ["keys", "create"],
    "setting without a value": ["--set", "server.port", "serve"],
    "unknown setting": ["--set", "server.prot=1", "serve"],
    "setting out of range": ["--set", "limits.queue_size=0", "migrate"],
    "no such settings file": ["--config", "nowhere.toml", "serve"],
}


@pytest.mark.parametrize("arguments", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_answered_with_one_line(service: Service, arguments: list[str]) -> None:
    ended = service.run(*arguments, BANATIE_SERVER__PORT=str(free_port()))
    assert_refused(ended, 2)


@pytest.mark.parametrize("arguments", [[], ["keys"]], ids=["banatie", "banatie keys"])
def test_no_command_is_answered_with_the_help(service: Service, arguments: list[str]) -> None:
    ended = service.run(*arguments)
    assert ended.returncode == 2
    assert re.search(r"^Commands:$", ended.stdout + ended.stderr, re.MULTILINE)


def test_a_wrong_environment_variable_is_named(service: Service) -> None:
    ended = service.run("migrate", BANATIE_SERVER__PORT="many")
    assert_refused(ended, 2)
    assert "server.port" in ended.stderr


def test_serve_refuses_a_host_that_is_none(service: Service) -> None:
    # The name is only looked up; the connection guard must not report that.
    ended = service.run("serve", "--host", "no such host", CONNECTION_LOG="")
    assert_refused(ended, 2)
    assert "server.host" in ended.stderr


def test_serve_refuses_a_port_that_is_taken(
    service: Service, new_service: Callable[..., Service]
) -> None:
    ended = new_service(server__port=str(service.port)).run("serve")
    assert_refused(ended, 2)
    assert str(service.port) in ended.stderr


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_data_folder_has_one_server_and_one_worker(service: Service, command: str) -> None:
    ended = service.run(command, BANATIE_SERVER__PORT=str(free_port()))
    assert_refused(ended, 1)
    [holder] = service.alive("banatie", command)
    assert f"`banatie {command}` (process {holder})" in ended.stderr
    assert "stop it first" in ended.stderr
    assert service.health().status_code == 200


def test_a_key_counts_from_when_it_is_made_until_it_is_revoked(service: Service) -> None:
    made = service.run("keys", "create", "--name", "guest")
    assert made.returncode == 0
    assert re.fullmatch(r"bnt_[A-Za-z0-9_-]+\n", made.stdout)
    key = made.stdout.strip()

    def status() -> int:
        headers = {"X-API-Key": key}
        return service.request("GET", "/api/v1/generations", headers=headers).status_code

    assert status() == 200
    listed = service.run("keys", "list").stdout
    assert "guest" in listed
    assert key not in listed
    assert service.run("keys", "revoke", "guest").returncode == 0
    assert status() == 401
    assert_refused(service.run("keys", "revoke", "guest"), 1)


def test_a_key_of_another_project_sees_nothing_of_this_one(service: Service) -> None:
    record = service.paint("a cat")
    made = service.run("keys", "create", "--name", "other", "--project", "other")
    headers = {"X-API-Key": made.stdout.strip()}
    path = f"/api/v1/generations/{record['id']}"
    assert service.request("GET", path, headers=headers).status_code == 404
    assert service.request("DELETE", path, headers=headers).status_code == 404
    assert service.request("GET", "/api/v1/generations", headers=headers).json()["data"] == []
    assert service.get(record["id"]) == record


def test_generate_uses_the_running_worker(service: Service, tmp_path: Path) -> None:
    output = tmp_path / "cat.png"
    options = ("--no-enhance", "--steps", "2", "--seed", "5", "--aspect-ratio", "16:9")
    ended = service.run("generate", "a cat", *options, "-o", str(output))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{output}\n", "")
    again = service.run("generate", "a cat", *options)
    assert again.returncode == 0
    stored = service.folder / again.stdout.removesuffix("\n")
    assert stored.is_relative_to(service.data / "storage")
    assert stored.read_bytes() == output.read_bytes()
    with Image.open(output) as image:
        assert image.width > image.height
    assert len(service.alive("worker")) == 1


@pytest.mark.parametrize(
    ("stop", "status"),
    [
        ("Ctrl-C", 130),
        ("cancel", 1),
    ],
)
def test_generate_that_is_stopped_leaves_a_cancelled_record(
    service: Service, stop: str, status: int
) -> None:
    def stopped(attempt: int) -> tuple[str, int]:
        prompt = f"a cat that is stopped by {stop}, attempt {attempt}"
        process = service.start("generate", prompt, "--no-enhance", "--steps", "100")

        def record() -> dict | None:
            found = service.request("GET", "/api/v1/generations?limit=1").json()["data"]
            return next((one for one in found if one["prompt"] == prompt), None)

        generation_id = service.wait_for(record, "the record")["id"]
        if stop == "Ctrl-C":
            process.send_signal(signal.SIGINT)
        else:
            service.request("POST", f"/api/v1/generations/{generation_id}/cancel")
        return generation_id, process.wait(10)

    for attempt in range(5):
        before = service.files()
        generation_id, ended_with = stopped(attempt)
        # A quick machine may have finished the picture before it was told to stop.
        if ended_with != 0:
            break
    assert ended_with == status
    ended = service.get(generation_id)
    assert (ended["status"], ended["errorMessage"]) == ("failed", "Cancelled")
    following = service.paint("a dog")
    assert service.files() == before | {f"{following['outputImageId']}.png"}


def test_generate_without_a_server_brings_its_own_worker(
    new_service: Callable[..., Service],
) -> None:
    alone = new_service(storage__metadata="false")
    output = alone.folder / "cat.png"
    ended = alone.run("generate", "a red cat", "--steps", "2", "-o", "cat.png")
    assert (ended.returncode, ended.stdout) == (0, "cat.png\n"), ended.stderr
    assert alone.alive() == []
    with Image.open(output) as image:
        image.load()
        assert image.text == {}
    [stored] = (alone.data / "storage").rglob("*.png")
    assert stored.read_bytes() == output.read_bytes()


def test_generate_copies_the_picture_in_the_format_that_the_suffix_names(
    service: Service,
) -> None:
    options = ("--no-enhance", "--steps", "1", "-o")
    for name, form in (("a.jpg", "JPEG"), ("a.webp", "WEBP"), ("a.PNG", "PNG"), ("a", "PNG")):
        ended = service.run("generate", "a cat", *options, name)
        assert (ended.returncode, ended.stdout) == (0, f"{name}\n"), ended.stderr
        with Image.open(service.folder / name) as image:
            assert image.format == form


def test_generate_says_where_the_picture_is_that_it_could_not_copy(service: Service) -> None:
    output = service.folder / "link.png"
    output.symlink_to("nowhere/cat.png")
    ended = service.run("generate", "a cat", "--no-enhance", "--steps", "1", "-o", str(output))
    assert_refused(ended, 1)
    [path] = re.findall(rf"{output} cannot be written .*; the picture is (.+)", ended.stderr)
    with Image.open(path) as image:
        image.load()


def test_generate_names_what_is_wrong_with_the_models_in_one_line(
    new_service: Callable[..., Service],
) -> None:
    alone = new_service(painting__model="none")
    ended = alone.run("generate", "a cat", "--no-enhance")
    assert_refused(ended, 1)
    assert "'none' is neither a folder nor a model of the catalog" in ended.stderr
    logged = alone.run("generate", "a cat", "--no-enhance", "--verbose")
    assert "ERROR   banatie.worker.process: nothing can be painted" in logged.stderr


def test_two_that_generate_at_the_same_moment_get_a_picture_each(
    new_service: Callable[..., Service],
) -> None:
    alone = new_service()
    outputs = [alone.folder / name for name in ("first.png", "second.png")]
    options = ("--no-enhance", "--steps", "2", "-o")
    both = [alone.start("generate", "a cat", *options, str(path)) for path in outputs]
    assert [each.wait(90) for each in both] == [0, 0], alone.tail()
    for path in outputs:
        with Image.open(path) as image:
            image.load()
    assert alone.alive() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_generate_goes_on_when_the_worker_it_waits_for_is_gone(
    new_service: Callable[..., Service], number: int
) -> None:
    alone = new_service()
    worker = alone.start("worker")
    alone.wait_for(lambda: list(alone.data.glob("paint-*")), "the worker to be ready", 90)
    output = alone.folder / "cat.png"
    options = ("--no-enhance", "--steps", "100", "-o", str(output))
    waiting = alone.start("generate", "a cat", *options)
    alone.wait_for(lambda: painting(alone.data), "the picture to be painted")
    alone.stop(worker, number)
    assert not output.exists()
    assert waiting.wait(90) == 0, alone.tail()
    with Image.open(output) as image:
        image.load()
    assert alone.alive() == []


def painting(data: Path) -> bool:
    """Whether a worker paints one of the generations of this folder."""
    database = Database(data / "banatie.db", read_only=True)
    try:
        return any(each.status == "processing" for each in Generations(database).changed_since(0))
    finally:
        database.close()


def assert_refused(ended: subprocess.CompletedProcess[str], status: int) -> None:
    """Assert that it printed one line for people, with this exit code."""
    assert ended.returncode == status, ended.stderr
    assert ended.stdout == ""
    assert re.fullmatch(r"banatie: [^\n]+\n", ended.stderr)
