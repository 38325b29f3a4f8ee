"""A model's folder in one file, to carry it to a machine without a network: export and import.

An archive is a plain tar of the folder with the manifest first, so it can be unpacked by hand as
well; `import_archive` adds the checks. Nothing in an archive is trusted: each file must be listed
in the manifest, with its size and hash.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol, get_args

from banatie.errors import ModelBroken, ModelError
from banatie.filesystem import special_kind
from banatie.models.catalog import require_installed
from banatie.models.disk_space import format_bytes, require_disk_space
from banatie.models.install import Installation, install, require_kind
from banatie.models.manifest import (
    CODE_SUFFIXES,
    MANIFEST_FILE,
    FileDigest,
    Kind,
    Manifest,
    encode_manifest,
    file_digests,
    is_model_name,
    is_path_inside,
)
from banatie.models.types import Entry
from banatie.models.validate import check_model

CHUNK_BYTES = 2**20
MAX_MANIFEST_BYTES = 10_000_000
LORA_CHECK = "Comparing its layers with the model's (PyTorch has to be loaded, which takes a while)"


def export_archive(entry: Entry, file: Path, report: Callable[[str], None]) -> Manifest:
    """Write a model's folder into an archive, comparing each file with its manifest on the way.

    `report` gets each step in one line. Raises ModelNotFound when the model is not installed,
    ModelBroken when a file has changed, ModelError when `file` exists or cannot be written.
    """
    require_installed(entry)
    if entry.problem:
        raise ModelBroken(entry.problem)
    _require_new(file)
    manifest = entry.manifest
    if manifest is None:
        report("Hashing the files, because the model has no manifest yet")
        manifest = Manifest(
            kind=entry.kind,
            name=entry.name,
            title=entry.title,
            licence=entry.licence,
            source=f"the folder {entry.folder.name}",
            settings=_settings(entry),
            files=file_digests(entry.folder),
        )
    size = sum(digest.bytes for digest in manifest.files.values())
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        require_disk_space(file.name, size, file.absolute().parent)
        with tarfile.open(unfinished, "w") as archive:
            text = encode_manifest(manifest)
            _add(archive, f"{entry.name}/{MANIFEST_FILE}", io.BytesIO(text), len(text))
            for name, digest in manifest.files.items():
                report(f"{name}  {format_bytes(digest.bytes)}")
                _add_file(archive, entry, name, digest)
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.rename(file)
    except OSError as error:
        raise ModelError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return manifest


def import_archive(
    file: Path, models_dir: Path, report: Callable[[str], None], configs: Path | None = None
) -> Manifest:
    """Install the model of an archive that `export_archive` wrote.

    `report` gets each step in one line; the model's name and folder follow from the manifest that
    is returned. `configs` is for LoRAs that are not of SDXL's structure. Raises ModelBroken, with
    nothing left behind, when a file is not what the archive's manifest says or a LoRA could not be
    applied, ModelError when the name is taken or the disk is too small.
    """
    try:
        with tarfile.open(file, "r:") as archive:
            manifest = _read_manifest(archive, file)
            require_kind(manifest.name, manifest.kind, models_dir)
            with install(models_dir, manifest.name) as installation:
                installation.require_new()
                installation.prepare(sum(digest.bytes for digest in manifest.files.values()))
                report(f"{manifest.title} ({manifest.licence}), from {manifest.source}")
                _unpack(archive, manifest, file, installation, report)
                check_model(manifest.kind, installation.folder)
                if manifest.kind == "lora":
                    _check_lora(installation.folder, manifest, report, configs)
                installation.publish(manifest)
    except tarfile.TarError as error:
        raise ModelBroken(
            f"{file} is not a complete tar archive ({error}); copy it again"
        ) from error
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    return manifest


def _require_new(file: Path) -> None:
    """Raises ModelError when an archive cannot be created at this path."""
    try:
        kind = special_kind(file, follow_links=False)
        exists = file.exists()
    except OSError as error:
        raise ModelError(f"{file} cannot be written: {error.strerror}") from error
    if kind is not None:
        raise ModelError(f"{file} is {kind}; name a file that does not exist")
    if exists:
        raise ModelError(f"{file} already exists; name another file")


def _check_lora(
    folder: Path, manifest: Manifest, report: Callable[[str], None], configs: Path | None
) -> None:
    """Raises ModelBroken when the LoRA could not be applied: the engine trusts what is installed.

    Its manifest may have been written by anybody.
    """
    report(LORA_CHECK)
    from banatie.models.convert.canonical_lora import read_canonical
    from banatie.models.convert.structure import layers_of

    for name in manifest.files:
        if name.endswith(".safetensors"):
            read_canonical(folder / name, layers_of(configs))


def _settings(entry: Entry) -> dict[str, Any]:
    names = ("mode", "steps", "guidance_scale", "scheduler", "sizes")
    return {name: getattr(entry.model, name) for name in names if hasattr(entry.model, name)}


class _Readable(Protocol):
    """What tarfile asks of a file that it adds."""

    def read(self, size: int = -1, /) -> bytes: ...


class _HashingReader:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """Read and hash the next bytes."""
        chunk = self._file.read(size)
        self.digest.update(chunk)
        return chunk


def _add(archive: tarfile.TarFile, name: str, content: _Readable, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    archive.addfile(member, content)


def _add_file(archive: tarfile.TarFile, entry: Entry, name: str, digest: FileDigest) -> None:
    changed = (
        f"{entry.name}/{name} has changed since it was installed; see: banatie models verify "
        f"{entry.name}"
    )
    try:
        with (entry.folder / name).open("rb") as opened:
            reader = _HashingReader(opened)
            if os.fstat(opened.fileno()).st_size != digest.bytes:
                raise ModelBroken(changed)
            _add(archive, f"{entry.name}/{name}", reader, digest.bytes)
    except FileNotFoundError:
        raise ModelBroken(changed) from None
    if reader.digest.hexdigest() != digest.sha256:
        raise ModelBroken(changed)


def _read_manifest(archive: tarfile.TarFile, file: Path) -> Manifest:
    """The manifest at the beginning of an archive, checked."""
    first = archive.next()
    if first is None or not first.isreg() or first.size > MAX_MANIFEST_BYTES:
        raise ModelBroken(f"{file} is not an archive of `banatie models export`")
    folder, _, name = first.name.rpartition("/")
    if name != MANIFEST_FILE or not is_model_name(folder):
        raise ModelBroken(f"{file} is not an archive of `banatie models export`")
    content = _open_member(archive, first).read()
    if len(content) != first.size:
        raise ModelBroken(f"{file} is cut off; copy it again")
    try:
        described = json.loads(content)
        files = {
            n: FileDigest(int(f["bytes"]), str(f["sha256"]))
            for n, f in described.pop("files").items()
        }
        manifest = Manifest(**described, files=files)
        texts = (manifest.title, manifest.licence, manifest.source, manifest.changed)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a title, licence, source or change that is not text")
        for digits in (manifest.original_sha256, manifest.original_weights_sha256):
            # Pictures name the model by them.
            if re.fullmatch(r"([0-9a-f]{64})?", digits) is None:
                raise ValueError("a SHA-256 that is none")
        dict(manifest.settings)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelBroken(
            f"the manifest in {file} is invalid ({error}); export the model again"
        ) from error
    if manifest.name != folder or manifest.kind not in get_args(Kind):
        raise ModelBroken(
            f"the manifest in {file} describes another model than the archive holds; "
            "export the model again"
        )
    for name, digest in files.items():
        if not is_path_inside(name) or digest.bytes < 0:
            raise ModelBroken(
                f"{file} holds {name!r}, which leads out of the model's folder; nothing was "
                "installed"
            )
        if name.lower().endswith(CODE_SUFFIXES):
            raise ModelBroken(f"{file} holds {name}, which could carry code; nothing was installed")
    return manifest


def _unpack(
    archive: tarfile.TarFile,
    manifest: Manifest,
    file: Path,
    installation: Installation,
    report: Callable[[str], None],
) -> None:
    expected = dict(manifest.files)
    for member in archive:
        name = member.name.removeprefix(f"{manifest.name}/")
        digest = expected.pop(name, None)
        if member.name == name or digest is None:
            if member.name == f"{manifest.name}/{MANIFEST_FILE}" and not member.offset:
                continue
            raise ModelBroken(
                f"{file} holds {member.name!r}, which its manifest does not list; nothing was "
                "installed"
            )
        if not member.isreg() or member.issparse():
            raise ModelBroken(
                f"{file} holds {name}, which is not a plain file; nothing was installed"
            )
        report(f"{name}  {format_bytes(digest.bytes)}")
        _unpack_file(archive, member, digest, file, installation.folder / name)
    if expected:
        raise ModelBroken(f"{file} is cut off: {next(iter(expected))} is missing; copy it again")


def _unpack_file(
    archive: tarfile.TarFile, member: tarfile.TarInfo, digest: FileDigest, file: Path, target: Path
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    sha256 = hashlib.sha256()
    with _open_member(archive, member) as packed, target.open("xb") as unpacked:
        while chunk := packed.read(CHUNK_BYTES):
            sha256.update(chunk)
            unpacked.write(chunk)
    if member.size != digest.bytes or sha256.hexdigest() != digest.sha256:
        raise ModelBroken(
            f"{member.name} in {file} is not what its manifest says (its SHA-256 differs); copy "
            "the archive again"
        )


def _open_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    opened = archive.extractfile(member)
    # None for members without content, which have been refused before.
    assert opened is not None
    return opened
