"""Archives: a model is carried to another machine complete, or is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from banatie.errors import BanatieError, ModelBroken, ModelError
from banatie.models import disk_space
from banatie.models.archive import export_archive, import_archive
from banatie.models.catalog import Catalog
from banatie.models.import_file import import_model
from banatie.models.manifest import Manifest, file_digests, read_manifest, write_manifest
from banatie.models.types import Entry
from tests.support.installed_models import flip_last_bit, states
from tests.support.single_files import write_checkpoint, write_lora
from tests.support.tiny_models import make_tiny_sdxl

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("name", ["my-painting", "my-language"])
def test_an_archive_brings_the_same_model_to_another_machine(
    models_dir: Path, tmp_path: Path, name: str
) -> None:
    entry = Catalog(models_dir).entry(name)
    file = tmp_path / "stick.tar"
    lines: list[str] = []
    export_archive(entry, file, lines.append)
    assert len(lines) == len(entry.manifest.files)
    other = tmp_path / "other" / "models"
    manifest = import_archive(file, other, lines.append)
    assert manifest == entry.manifest
    assert read_manifest(other / name) == entry.manifest
    assert file_digests(other / name) == entry.manifest.files
    assert states(Catalog(other).entry(name)) == {}
    assert [path.name for path in other.iterdir() if path.is_dir()] == [name]
    assert lines.count(lines[-1]) == 2, "each file is reported on the way out and on the way in"


def test_an_archive_can_be_unpacked_by_hand(painting: Entry, tmp_path: Path) -> None:
    file = tmp_path / "stick.tar"
    export_archive(painting, file, print)
    with tarfile.open(file) as archive:
        assert archive.getnames()[0] == "my-painting/banatie.json"
        # Python 3.11 knows filters from 3.11.4 on.
        options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path / "by-hand", **options)
    assert states(Catalog(tmp_path / "by-hand").entry("my-painting")) == {}


def test_a_model_without_a_manifest_gets_one_in_its_archive(
    models_dir: Path, tmp_path: Path
) -> None:
    folder = models_dir / "sdxl-turbo"
    (models_dir / "my-painting").rename(folder)
    (folder / "banatie.json").unlink()
    file = tmp_path / "small.tar"
    lines: list[str] = []
    export_archive(Catalog(models_dir).entry("sdxl-turbo"), file, lines.append)
    assert "has no manifest yet" in lines[0]
    manifest = import_archive(file, tmp_path / "other", print)
    assert (manifest.licence, manifest.settings["steps"]) == ("Stability AI Community", 4)
    assert manifest.files == file_digests(folder)


def test_a_changed_model_is_not_exported(painting: Entry, tmp_path: Path) -> None:
    flip_last_bit(painting.folder / UNET)
    with pytest.raises(
        ModelBroken,
        match=f"my-painting/{UNET} has changed .*models verify",
    ):
        export_archive(painting, tmp_path / "stick.tar", print)
    (painting.folder / UNET).unlink()
    with pytest.raises(ModelBroken, match="has changed since"):
        export_archive(painting, tmp_path / "stick.tar", print)
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_no_file_is_overwritten(painting: Entry, tmp_path: Path) -> None:
    file = tmp_path / "stick.tar"
    file.write_text("precious")
    with pytest.raises(ModelError, match="already exists"):
        export_archive(painting, file, print)
    assert file.read_text() == "precious"
    with pytest.raises(ModelError, match="cannot be written"):
        export_archive(painting, tmp_path / "no-such-folder" / "stick.tar", print)


def test_a_full_disk_is_told_before_anything_is_written(
    painting: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "stick.tar"
    export_archive(painting, file, print)
    monkeypatch.setattr(disk_space, "SPARE_BYTES", 10**18)
    with pytest.raises(ModelError, match=r"second\.tar needs .* and the disk of .* free; free"):
        export_archive(painting, tmp_path / "second.tar", print)
    with pytest.raises(ModelError, match=r"needs .* and the disk of"):
        import_archive(file, tmp_path / "other", print)
    assert list((tmp_path / "other").glob("[!.]*")) == []


def test_what_is_there_is_not_replaced(painting: Entry, models_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "stick.tar"
    export_archive(painting, file, print)
    with pytest.raises(ModelError, match=r"already installed; run: banatie models remove my-p"):
        import_archive(file, models_dir, print)
    assert states(painting) == {}


Edit = Callable[[dict], None]


def archive_of(file: Path, files: dict[str, bytes], edit: Edit = lambda _: None) -> Path:
    """An archive of a language model called `odd`, whose manifest was edited."""
    described = {
        "kind": "language",
        "name": "odd",
        "title": "Odd",
        "licence": "MIT",
        "source": "here",
        "settings": {},
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        },
    }
    edit(described)
    members = {"banatie.json": json.dumps(described).encode(), **files}
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"odd/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


@pytest.fixture
def writer_files(language: Entry) -> dict[str, bytes]:
    return {name: (language.folder / name).read_bytes() for name in language.manifest.files}


def assert_refused(file: Path, models_dir: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        import_archive(file, models_dir, print)
    left = list(models_dir.glob("[!.]*")) + [p for p in models_dir.glob(".*") if p.is_dir()]
    assert left == []


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(name="../odd"), "describes another model than the archive"),
        (lambda d: d.update(name="other"), "describes another model than the archive"),
        (lambda d: d.update(kind="virus"), "describes another model than the archive"),
        (lambda d: d.update(kind="painting"), "model_index.json is missing"),
        (lambda d: d.update(files=[]), "is invalid"),
        (lambda d: d.update(settings=3), "is invalid"),
        (lambda d: d.update(title=None), "is invalid"),
        (lambda d: d.pop("licence"), "is invalid"),
        (
            lambda d: d["files"].pop("config.json"),
            "'odd/config.json', which its manifest",
        ),
        (lambda d: d["files"]["config.json"].update(bytes=3), "is not what its manifest says"),
        (lambda d: d["files"]["config.json"].update(bytes=-3), "leads out of the model's folder"),
        (lambda d: d["files"]["config.json"].update(sha256="0"), "is not what its manifest says"),
        (lambda d: d["files"].update(more={"bytes": 1, "sha256": ""}), "cut off: more is missing"),
        (
            lambda d: d["files"].update({"../x": {"bytes": 1, "sha256": ""}}),
            r"'\.\./x', which leads",
        ),
        (lambda d: d["files"].update({"/etc/x": {"bytes": 1, "sha256": ""}}), "leads out of"),
        (lambda d: d.update(changed=7), "is invalid .a title, licence, source or change"),
        (lambda d: d.update(original_sha256="x"), "is invalid .a SHA-256 that is none"),
        (lambda d: d.update(original_weights_sha256=7), "is invalid"),
        (lambda d: d["files"].update({"m.BIN": {"bytes": 1, "sha256": ""}}), "could carry code"),
    ],
)
def test_a_manifest_that_lies_lets_nothing_in(
    writer_files: dict[str, bytes], tmp_path: Path, edit: Edit, message: str
) -> None:
    assert_refused(
        archive_of(tmp_path / "odd.tar", writer_files, edit), tmp_path / "other", message
    )
    assert {path.name for path in tmp_path.iterdir()} - {"other"} == {"models", "odd.tar"}


def add(file: Path, member: tarfile.TarInfo, content: bytes = b"") -> None:
    with tarfile.open(file, "a") as archive:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("name", ["odd/evil.json", "../evil.json", "/evil.json", "evil.json"])
def test_a_file_that_the_manifest_does_not_know_is_refused(
    writer_files: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    file = archive_of(tmp_path / "odd.tar", writer_files)
    add(file, tarfile.TarInfo(name), b"{}")
    assert_refused(file, tmp_path / "other", "which its manifest does not list")


def test_a_file_twice_is_refused(writer_files: dict[str, bytes], tmp_path: Path) -> None:
    file = archive_of(tmp_path / "odd.tar", writer_files)
    add(file, tarfile.TarInfo("odd/config.json"), writer_files["config.json"])
    assert_refused(file, tmp_path / "other", "which its manifest does not list")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_in_a_file_s_place_is_refused(
    writer_files: dict[str, bytes], tmp_path: Path, kind: bytes
) -> None:
    def promise(described: dict) -> None:
        described["files"]["link.json"] = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}

    file = archive_of(tmp_path / "odd.tar", writer_files, promise)
    link = tarfile.TarInfo("odd/link.json")
    link.type, link.linkname = kind, "/etc/passwd"
    add(file, link)
    assert_refused(file, tmp_path / "other", "link.json, which is not a plain file")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.6, 0.95])
def test_an_archive_that_is_cut_off_leaves_nothing(
    painting: Entry, tmp_path: Path, part: float
) -> None:
    file = tmp_path / "stick.tar"
    export_archive(painting, file, print)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    assert_refused(file, tmp_path / "other", "not a complete|cut off|not what|not an archive")


def test_a_bit_that_flipped_on_the_way_is_found(painting: Entry, tmp_path: Path) -> None:
    file = tmp_path / "stick.tar"
    export_archive(painting, file, print)
    content = bytearray(file.read_bytes())
    weights = (painting.folder / UNET).read_bytes()
    content[content.find(weights) + len(weights) // 2] ^= 1
    file.write_bytes(content)
    assert_refused(file, tmp_path / "other", f"my-painting/{UNET} in .* is not what its manifest")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: file.write_bytes(b"not a tar" * 999), "not a complete tar archive"),
        (lambda file: None, "cannot be read"),
        (lambda file: file.mkdir(), "cannot be read"),
        (lambda file: tarfile.open(file, "w").close(), "not an archive of `banatie models export`"),
    ],
)
def test_what_is_no_archive_is_said_to_be_none(
    tmp_path: Path, write: Callable[[Path], object], message: str
) -> None:
    file = tmp_path / "odd.tar"
    write(file)
    assert_refused(file, tmp_path / "other", message)


def test_an_interruption_leaves_nothing_and_can_be_repeated(
    painting: Entry, tmp_path: Path
) -> None:
    file = tmp_path / "stick.tar"

    def interrupt(line: str) -> None:
        if UNET in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_archive(painting, file, interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
    export_archive(painting, file, print)
    other = tmp_path / "other"
    with pytest.raises(KeyboardInterrupt):
        import_archive(file, other, interrupt)
    assert [path for path in other.iterdir() if path.is_dir()] == []
    # What is left when the process itself is killed.
    (other / ".my-painting.installing").mkdir()
    import_archive(file, other, print)
    assert states(Catalog(other).entry("my-painting")) == {}


def silent(line: str) -> None:
    pass


def test_a_lora_and_a_checkpoint_are_exported_and_imported_again(tmp_path: Path) -> None:
    pipeline = make_tiny_sdxl(tmp_path / "pipeline", second_width=24)
    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    write_lora(tmp_path / "ink.safetensors", {layer: torch.Size((16, 40))}, rank=4, alpha=2.0)
    write_checkpoint(pipeline, tmp_path / "nice.safetensors")
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("ink", "nice"):
        import_model(tmp_path / f"{name}.safetensors", here, silent, configs=pipeline)
        export_archive(Catalog(here).entry(name), tmp_path / f"{name}.tar", silent)
        imported = import_model(tmp_path / f"{name}.tar", there, silent, configs=pipeline)
        assert imported == read_manifest(here / name) == read_manifest(there / name)
        with pytest.raises(BanatieError, match="already"):
            import_model(tmp_path / f"{name}.tar", there, silent, configs=pipeline)
    assert Catalog(there).lora("ink") == there / "ink" / "lora.safetensors"


@pytest.mark.parametrize(
    ("kind", "named"), [("fifo", "a pipe"), ("dangling", "a symbolic link"), ("device", "a device")]
)
def test_an_archive_is_a_new_regular_file(
    painting: Entry, tmp_path: Path, kind: str, named: str
) -> None:
    target = tmp_path / "stick.tar"
    if kind == "fifo":
        os.mkfifo(target)
    elif kind == "device":
        target = Path("/dev/full")
    else:
        target.symlink_to(tmp_path / "other")
    before = target.lstat()
    with pytest.raises(ModelError, match=f"{target} is {named}; name a file that does not exist"):
        export_archive(painting, target, print)
    after = target.lstat()
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert {path.name for path in tmp_path.iterdir()} <= {"models", "stick.tar"}


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("unet.mid_block.attentions.0.proj_in", None),
        ("unet.no_such_layer", "is for a layer that the unet does not have"),
    ],
)
def test_a_lora_in_an_archive_is_checked_like_a_file(
    tmp_path: Path, layer: str, message: str | None
) -> None:
    configs = make_tiny_sdxl(tmp_path / "configs")
    models, other = tmp_path / "models", tmp_path / "other"
    folder = models / "ink"
    folder.mkdir(parents=True)
    write_lora(folder / "lora.safetensors", {layer: torch.Size((16, 16))}, rank=2, alpha=None)
    write_manifest(folder, Manifest("lora", "ink", "Ink", "MIT", "", files=file_digests(folder)))
    file = tmp_path / "ink.tar"
    export_archive(Catalog(models).entry("ink"), file, print)
    if message is None:
        assert import_model(file, other, print, configs=configs).name == "ink"
        return
    with pytest.raises(ModelBroken, match=message):
        import_model(file, other, print, configs=configs)
    assert [path.name for path in other.iterdir() if path.is_dir()] == []
