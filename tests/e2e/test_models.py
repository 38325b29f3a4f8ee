"""A model's life by the command line: pulled, interrupted, used, exported, removed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from banatie.models.manifest import file_digests, read_manifest
from tests.support.loopback_hub import LoopbackHub, Repository, serving
from tests.support.service import Service, TinyModels

REPOSITORY = "acme/Tiny-SDXL"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(models: TinyModels) -> Iterator[LoopbackHub]:
    with serving(LoopbackHub({REPOSITORY: Repository.from_folder(models.painting)})) as hub:
        yield hub


@pytest.fixture
def user(new_service: Callable[..., Service], hub: LoopbackHub) -> Service:
    """A service with a settings file, no painting model in the environment, and a mirror."""
    service = new_service(enhancement__model="none")
    del service.environment["BANATIE_PAINTING__MODEL"]
    service.environment["HF_ENDPOINT"] = hub.url
    # The real hub must not hear of requests to a mirror.
    service.environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    return service


def test_a_model_is_pulled_used_carried_and_removed(
    user: Service, hub: LoopbackHub, models: TinyModels
) -> None:
    (user.folder / "config.toml").write_text(
        "# mine\n[painting]\nmodel = 'banatie-small' # small\n"
    )
    hub.stall_after = [1234]
    killed = user.start("models", "pull", REPOSITORY)
    partial = user.folder / "models" / ".tiny-sdxl.installing" / "parts"
    user.wait_for(
        lambda: any(path.stat().st_size == 1234 for path in partial.glob("*")), "half a file"
    )
    assert user.stop(killed, signal.SIGKILL) < 10
    listed = user.run("models", "list").stdout
    assert "tiny-sdxl" not in listed
    hub.stall_after = []

    pulled = user.run("models", "pull", REPOSITORY)
    folder = user.folder / "models" / "tiny-sdxl"
    assert (pulled.returncode, pulled.stdout) == (0, f"{folder}\n"), pulled.stderr
    assert [request.range for request in hub.requests if request.range] == ["bytes=1234-"]
    assert pulled.stderr.splitlines()[-1] == "Use it with: banatie models use tiny-sdxl"
    assert file_digests(folder) == file_digests(models.painting)

    used = user.run("models", "use", "tiny-sdxl")
    assert (used.returncode, used.stderr) == (0, "")
    settings = (user.folder / "config.toml").read_text()
    assert settings == '# mine\n[painting]\nmodel = "tiny-sdxl" # small\n'
    # Now the machine is offline.
    hub.serves_html = True
    picture = user.folder / "cat.png"
    painted = user.run("generate", "a cat", "--no-enhance", "--steps", "2", "-o", "cat.png")
    assert (painted.returncode, painted.stdout) == (0, "cat.png\n"), painted.stderr
    with Image.open(picture) as image:
        assert image.size == (128, 128)
        assert "tiny-sdxl" in image.text["parameters"]

    stick = user.folder / "stick.tar"
    exported = user.run("models", "export", "tiny-sdxl", "stick.tar")
    assert exported.returncode == 0, exported.stderr
    assert stick.stat().st_size > 600_000
    assert user.run("models", "remove", "tiny-sdxl").returncode == 1
    assert user.run("models", "remove", "tiny-sdxl", "--force").returncode == 0
    assert not folder.exists()


def test_ctrl_c_says_how_to_go_on(user: Service, hub: LoopbackHub) -> None:
    hub.stall_after = [1234]
    process = user.start("models", "pull", REPOSITORY)
    user.wait_for(lambda: hub.requests_of(UNET) or len(hub.requests) > 3, "the download")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert "\nInterrupted; run the same command again to resume\n" in user.log.read_text()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (REPOSITORY, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        (REPOSITORY, {"HF_ENDPOINT": "http://127.0.0.1:1"}, "cannot be reached"),
        ("acme/nothing", {}, "has no repository acme/nothing"),
        ("sdxl-turbo", {}, "has no repository stabilityai/sdxl-turbo"),
        ("../etc", {}, "'../etc' is not a repository's name"),
    ],
)
def test_what_goes_wrong_is_one_line(
    user: Service, name: str, settings: dict[str, str], message: str
) -> None:
    ended = user.run("models", "pull", name, **settings)
    assert (ended.returncode, ended.stdout) == (1, "")
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("banatie: ")
    assert message in last
    assert "Traceback" not in ended.stderr


def test_a_token_of_the_environment_opens_a_gated_model(user: Service, hub: LoopbackHub) -> None:
    hub.repositories[REPOSITORY].token = "hf_secret"
    refused = user.run("models", "pull", REPOSITORY)
    assert refused.returncode == 1
    assert f"huggingface.co/{REPOSITORY}, set HF_TOKEN" in refused.stderr
    assert "hf_secret" not in refused.stderr
    pulled = user.run("models", "pull", REPOSITORY, "--as", "mine", HF_TOKEN="hf_secret")
    assert pulled.returncode == 0, pulled.stderr
    manifest = read_manifest(user.folder / "models" / "mine")
    assert (manifest.name, manifest.licence) == ("mine", "mit")
    assert not list(Path(user.folder, "models").glob(".*installing"))
