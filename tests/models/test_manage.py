"""Models that are here: verified, removed, and carried over in an archive, whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from banatie.errors import ModelBroken, ModelError, ModelNotFound
from banatie.models import disk_space as room
from banatie.models.catalog import Catalog, Entry
from banatie.models.disk_space import readable
from banatie.models.manage import export, import_archive, remove, size_of, verify
from banatie.models.manifest import (
    Manifest,
    file_digests,
    is_inside,
    read_manifest,
    write_manifest,
)
from tests.support.tiny_models import make_tiny_language_model, make_tiny_sdxl

UNET = "unet/diffusion_pytorch_model.safetensors"
SETTINGS = {"steps": 4, "guidance_scale": 0.0, "scheduler": {"class": "EulerDiscreteScheduler"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with a pipeline and a writer that came with their manifests."""
    folder = tmp_path_factory.mktemp("made")
    for kind, make in (("painting", make_tiny_sdxl), ("language", make_tiny_language_model)):
        model = make(folder / f"my-{kind}")
        settings = SETTINGS if kind == "painting" else {"mode": "free"}
        facts = file_digests(model)
        title, origin = f"My {kind}", "acme/mine@c0ffee"
        write_manifest(model, Manifest(kind, model.name, title, "MIT", origin, settings, facts))
    return folder


@pytest.fixture
def models_dir(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "models")


@pytest.fixture
def painting(models_dir: Path) -> Entry:
    return Catalog(models_dir).entry("my-painting")


@pytest.fixture
def language(models_dir: Path) -> Entry:
    return Catalog(models_dir).entry("my-language")


def states(entry: Entry) -> dict[str, str]:
    return {verdict.name: verdict.state for verdict in verify(entry) if verdict.state != "ok"}


def spoil(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


# What is here


def test_a_folder_with_a_manifest_is_a_model_with_a_name_and_settings(models_dir: Path) -> None:
    catalog = Catalog(models_dir)
    painter = catalog.painting_model("my-painting")
    assert (painter.name, painter.title, painter.licence) == ("my-painting", "My painting", "MIT")
    assert (painter.steps, painter.guidance_scale) == (4, 0.0)
    assert painter.scheduler == {"class": "EulerDiscreteScheduler"}
    assert painter.sizes["1:1"] == (128, 128)
    # By its path it is the same model.
    assert catalog.painting_model(str(models_dir / "my-painting")) == painter
    assert catalog.language_model("my-language").mode == "free"
    here = {entry.name for entry in catalog.installed()}
    assert here == {"my-painting", "my-language"}
    assert {"sdxl-turbo", "my-painting"} <= {entry.name for entry in catalog.entries()}


def test_sizes_of_a_manifest_count(models_dir: Path) -> None:
    folder = models_dir / "my-painting"
    manifest = read_manifest(folder)
    settings = {**manifest.settings, "sizes": {"1:1": [64, 64]}}
    write_manifest(folder, dataclasses.replace(manifest, settings=settings))
    assert Catalog(models_dir).painting_model("my-painting").sizes == {"1:1": (64, 64)}


@pytest.mark.parametrize(
    "settings",
    [
        {"sizes": {"1:1": 64}},
        {"sizes": 3},
        {"steps": "many"},
        {"scheduler": "Euler"},
        {"steps": {}},
    ],
)
def test_settings_that_make_no_sense_are_named(models_dir: Path, settings: dict) -> None:
    folder = models_dir / "my-painting"
    write_manifest(folder, dataclasses.replace(read_manifest(folder), settings=settings))
    with pytest.raises(
        ModelBroken, match=r"settings of my-painting, in its banatie\.json, are not"
    ):
        Catalog(models_dir).painting_model("my-painting")


def test_a_model_of_another_kind_is_named(models_dir: Path) -> None:
    catalog = Catalog(models_dir)
    with pytest.raises(ModelBroken, match=r"my-language is a language model.*set painting\.model"):
        catalog.painting_model("my-language")
    with pytest.raises(ModelBroken, match="my-painting is a painting model"):
        catalog.language_model("my-painting")


def test_a_manifest_that_cannot_be_read_hides_no_other_model(models_dir: Path) -> None:
    (models_dir / "my-painting" / "banatie.json").write_text("{")
    entries = {entry.name: entry for entry in Catalog(models_dir).installed()}
    assert "cannot be read" in entries["my-painting"].problem
    assert entries["my-language"].problem == ""
    with pytest.raises(ModelBroken, match="cannot be read"):
        states(entries["my-painting"])


def test_an_unknown_name_is_answered_with_those_that_are_known(models_dir: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no model is called 'x'; .*sdxl-turbo.*my-language"):
        Catalog(models_dir).entry("x")


def test_loras_are_found_by_their_names(models_dir: Path) -> None:
    catalog = Catalog(models_dir)
    with pytest.raises(ModelNotFound, match="no LoRA called 'ink' here; those that are: none"):
        catalog.lora("ink")
    folder = models_dir / "ink"
    folder.mkdir()
    (folder / "ink.safetensors").write_bytes(b"weights")
    write_manifest(folder, Manifest("lora", "ink", "Ink", "MIT", "ink", {}, file_digests(folder)))
    assert catalog.loras() == {"ink": folder / "ink.safetensors"}
    assert catalog.lora("ink") == folder / "ink.safetensors"
    for name in ("my-painting", "../ink", "ink/ink.safetensors"):
        with pytest.raises(ModelNotFound, match="those that are: ink"):
            catalog.lora(name)
    broken = models_dir / "wash"
    broken.mkdir()
    write_manifest(broken, Manifest("lora", "wash", "Wash", "MIT", "wash"))
    assert catalog.loras() == {"ink": folder / "ink.safetensors"}
    with pytest.raises(ModelBroken, match="weights of one LoRA"):
        catalog.lora("wash")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "2 kB"), (39_100_000, "39.1 MB"), (7e9, "7.0 GB")],
)
def test_sizes_are_told_as_people_say_them(number: float, text: str) -> None:
    assert readable(number) == text


def test_the_size_of_a_model_is_that_of_its_files_or_of_what_there_is_to_fetch(
    models_dir: Path, painting: Entry
) -> None:
    files = [path for path in painting.folder.rglob("*") if path.is_file()]
    assert size_of(painting) == sum(path.stat().st_size for path in files)
    assert size_of(Catalog(models_dir).entry("sdxl-turbo")) > 6e9


# Verifying


def test_each_file_is_compared_with_the_manifest(painting: Entry) -> None:
    assert states(painting) == {}
    spoil(painting.folder / UNET)
    (painting.folder / "vae" / "config.json").unlink()
    (painting.folder / "vae" / "notes.txt").write_text("mine")
    expected = {UNET: "changed", "vae/config.json": "missing", "vae/notes.txt": "extra"}
    assert states(painting) == expected


def test_without_a_manifest_only_the_heads_tell(models_dir: Path) -> None:
    folder = models_dir / "banatie-small"
    (models_dir / "my-painting").rename(folder)
    (folder / "banatie.json").unlink()
    entry = Catalog(models_dir).entry("banatie-small")
    assert set(states(entry).values()) == {"unknown"}
    (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-1])
    with pytest.raises(ModelBroken, match="not whole"):
        states(entry)


def test_what_is_not_here_cannot_be_verified(models_dir: Path) -> None:
    with pytest.raises(ModelNotFound, match="run: banatie models pull sdxl-turbo"):
        states(Catalog(models_dir).entry("sdxl-turbo"))


# Removing


def test_a_model_goes_as_a_whole(painting: Entry, models_dir: Path) -> None:
    size = size_of(painting)
    left = models_dir / ".my-painting.unfinished"
    left.mkdir()
    assert remove(painting) == size
    assert not painting.folder.exists()
    assert not left.exists()
    assert [path.name for path in models_dir.iterdir() if path.is_dir()] == ["my-language"]
    with pytest.raises(ModelNotFound):
        remove(painting)


def test_what_an_interrupted_attempt_left_goes_too(models_dir: Path) -> None:
    left = models_dir / ".sdxl-turbo.unfinished" / "partial"
    left.mkdir(parents=True)
    assert remove(Catalog(models_dir).entry("sdxl-turbo")) == 0
    assert not left.parent.exists()


def test_of_a_link_only_the_link_goes(painting: Entry, tmp_path: Path) -> None:
    elsewhere = painting.folder.rename(tmp_path / "elsewhere")
    painting.folder.symlink_to(elsewhere)
    assert remove(painting) == 0
    assert not painting.folder.exists()
    assert (elsewhere / UNET).is_file()


def test_the_embedded_model_stays(models_dir: Path) -> None:
    (models_dir / "my-painting").rename(models_dir / "banatie-small")
    with pytest.raises(ModelError, match="banatie-small is part of Banatie and stays"):
        remove(Catalog(models_dir).entry("banatie-small"))
    assert (models_dir / "banatie-small" / UNET).is_file()


def test_nothing_is_removed_that_is_just_being_brought(painting: Entry, models_dir: Path) -> None:
    with (
        FileLock(models_dir / ".my-painting.lock"),
        pytest.raises(ModelError, match="another process is at work on my-painting"),
    ):
        remove(painting)
    assert states(painting) == {}


# Archives


@pytest.mark.parametrize("name", ["my-painting", "my-language"])
def test_an_archive_brings_the_same_model_to_another_machine(
    models_dir: Path, tmp_path: Path, name: str
) -> None:
    entry = Catalog(models_dir).entry(name)
    file = tmp_path / "stick.tar"
    lines: list[str] = []
    export(entry, file, lines.append)
    assert len(lines) == len(entry.manifest.files)
    other = tmp_path / "other" / "models"
    manifest = import_archive(file, other, lines.append)
    assert manifest == entry.manifest
    assert read_manifest(other / name) == entry.manifest
    assert file_digests(other / name) == entry.manifest.files
    assert states(Catalog(other).entry(name)) == {}
    assert [path.name for path in other.iterdir() if path.is_dir()] == [name]
    assert lines.count(lines[-1]) == 2, "each file is told on the way out and on the way in"


def test_an_archive_can_be_unpacked_by_hand(painting: Entry, tmp_path: Path) -> None:
    file = tmp_path / "stick.tar"
    export(painting, file, print)
    with tarfile.open(file) as archive:
        assert archive.getnames()[0] == "my-painting/banatie.json"
        archive.extractall(tmp_path / "by-hand", filter="data")
    assert states(Catalog(tmp_path / "by-hand").entry("my-painting")) == {}


def test_a_model_without_a_manifest_gets_one_in_its_archive(
    models_dir: Path, tmp_path: Path
) -> None:
    folder = models_dir / "banatie-small"
    (models_dir / "my-painting").rename(folder)
    (folder / "banatie.json").unlink()
    file = tmp_path / "small.tar"
    lines: list[str] = []
    export(Catalog(models_dir).entry("banatie-small"), file, lines.append)
    assert "no manifest describes yet" in lines[0]
    manifest = import_archive(file, tmp_path / "other", print)
    assert (manifest.licence, manifest.settings["steps"]) == ("MIT", 8)
    assert manifest.files == file_digests(folder)


def test_a_changed_model_is_not_exported(painting: Entry, tmp_path: Path) -> None:
    spoil(painting.folder / UNET)
    with pytest.raises(ModelBroken, match=f"my-painting/{UNET} is not what came.*models verify"):
        export(painting, tmp_path / "stick.tar", print)
    (painting.folder / UNET).unlink()
    with pytest.raises(ModelBroken, match="is not what came"):
        export(painting, tmp_path / "stick.tar", print)
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_no_file_is_overwritten(painting: Entry, tmp_path: Path) -> None:
    file = tmp_path / "stick.tar"
    file.write_text("precious")
    with pytest.raises(ModelError, match="is there already"):
        export(painting, file, print)
    assert file.read_text() == "precious"
    with pytest.raises(ModelError, match="cannot be written"):
        export(painting, tmp_path / "no-such-folder" / "stick.tar", print)


def test_a_full_disk_is_told_before_anything_is_written(
    painting: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "stick.tar"
    export(painting, file, print)
    monkeypatch.setattr(room, "SPARE_BYTES", 10**18)
    with pytest.raises(ModelError, match=r"second\.tar needs .* and the disk of .* free; make"):
        export(painting, tmp_path / "second.tar", print)
    with pytest.raises(ModelError, match=r"needs .* and the disk of"):
        import_archive(file, tmp_path / "other", print)
    assert list((tmp_path / "other").glob("[!.]*")) == []


def test_what_is_there_is_not_replaced(painting: Entry, models_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "stick.tar"
    export(painting, file, print)
    with pytest.raises(ModelError, match=r"already; remove it first: banatie models remove my-p"):
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
        (lambda d: d.update(name="../odd"), "describes another model than it holds"),
        (lambda d: d.update(name="other"), "describes another model than it holds"),
        (lambda d: d.update(kind="virus"), "describes another model than it holds"),
        (lambda d: d.update(kind="painting"), "model_index.json is missing"),
        (lambda d: d.update(files=[]), "makes no sense"),
        (lambda d: d.update(settings=3), "makes no sense"),
        (lambda d: d.update(title=None), "makes no sense"),
        (lambda d: d.pop("licence"), "makes no sense"),
        (lambda d: d["files"].pop("config.json"), "'odd/config.json', which its manifest does not"),
        (lambda d: d["files"]["config.json"].update(bytes=3), "is not what its manifest says"),
        (lambda d: d["files"]["config.json"].update(bytes=-3), "leads out of the model's folder"),
        (lambda d: d["files"]["config.json"].update(sha256="0"), "is not what its manifest says"),
        (lambda d: d["files"].update(more={"bytes": 1, "sha256": ""}), "cut off: more is missing"),
        (
            lambda d: d["files"].update({"../x": {"bytes": 1, "sha256": ""}}),
            r"'\.\./x', which leads",
        ),
        (lambda d: d["files"].update({"/etc/x": {"bytes": 1, "sha256": ""}}), "leads out of"),
        (lambda d: d["files"].update({"m.BIN": {"bytes": 1, "sha256": ""}}), "could carry code"),
    ],
)
def test_a_manifest_that_lies_lets_nothing_in(
    writer_files: dict[str, bytes], tmp_path: Path, edit: Edit, message: str
) -> None:
    assert_refused(
        archive_of(tmp_path / "odd.tar", writer_files, edit), tmp_path / "other", message
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "odd.tar", "other"]


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
    assert_refused(file, tmp_path / "other", "which its manifest does not know")


def test_a_file_twice_is_refused(writer_files: dict[str, bytes], tmp_path: Path) -> None:
    file = archive_of(tmp_path / "odd.tar", writer_files)
    add(file, tarfile.TarInfo("odd/config.json"), writer_files["config.json"])
    assert_refused(file, tmp_path / "other", "which its manifest does not know")


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
    assert_refused(file, tmp_path / "other", "link.json as something else than a plain file")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.6, 0.95])
def test_an_archive_that_is_cut_off_leaves_nothing(
    painting: Entry, tmp_path: Path, part: float
) -> None:
    file = tmp_path / "stick.tar"
    export(painting, file, print)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    assert_refused(file, tmp_path / "other", "not a whole|cut off|not what|not an archive")


def test_a_bit_that_flipped_on_the_way_is_found(painting: Entry, tmp_path: Path) -> None:
    file = tmp_path / "stick.tar"
    export(painting, file, print)
    content = bytearray(file.read_bytes())
    weights = (painting.folder / UNET).read_bytes()
    content[content.find(weights) + len(weights) // 2] ^= 1
    file.write_bytes(content)
    assert_refused(file, tmp_path / "other", f"my-painting/{UNET} in .* is not what its manifest")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: file.write_bytes(b"not a tar" * 999), "not a whole tar archive"),
        (lambda file: None, "cannot be brought in"),
        (lambda file: file.mkdir(), "cannot be brought in"),
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
        export(painting, file, interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
    export(painting, file, print)
    other = tmp_path / "other"
    with pytest.raises(KeyboardInterrupt):
        import_archive(file, other, interrupt)
    assert [path for path in other.iterdir() if path.is_dir()] == []
    # What is left when the process itself is killed.
    (other / ".my-painting.importing").mkdir()
    import_archive(file, other, print)
    assert states(Catalog(other).entry("my-painting")) == {}


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("config.json", True),
        ("unet/config.json", True),
        ("a/b/c.txt", True),
        ("", False),
        (".", False),
        ("..", False),
        ("../x", False),
        ("a/../../x", False),
        ("a/../x", False),
        ("/x", False),
        ("a//x", False),
        ("./x", False),
        ("C:x", False),
        ("C:/x", False),
        ("a\\x", False),
        ("\\\\host\\x", False),
        ("a\0x", False),
        ("banatie.json", False),
    ],
)
def test_paths_that_lead_out_of_a_folder_are_known(name: str, inside: bool) -> None:
    assert is_inside(name) is inside
