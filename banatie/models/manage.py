"""What is done with the models that are here: verified, removed, carried over on a stick.

An archive is a plain tar of a model's folder, its manifest first, so that unpacking it by hand is
as good as `import_archive`, but for the checks. How a model is fetched is for `bring` and `pull`;
which one is in use is the configuration's business.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

from filelock import FileLock, Timeout

from banatie.errors import ModelBroken, ModelError, ModelNotFound
from banatie.models.catalog import Entry
from banatie.models.disk_space import readable, require_disk_space
from banatie.models.manifest import (
    CODE,
    MANIFEST_FILE,
    FileDigest,
    Manifest,
    file_digests,
    is_inside,
    is_name,
    write_manifest,
)
from banatie.models.validate import check_language_model, check_pipeline, read_summary, sha256_of

CHUNK_BYTES = 2**20
LARGEST_MANIFEST = 10_000_000
EMBEDDED = ("banatie-small",)
"""Part of the program: it stays where it is."""

State = Literal["ok", "changed", "missing", "extra", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """What has become of a file since it came."""

    name: str
    state: State
    """extra: the manifest does not know it. unknown: there is no manifest, and it looks whole."""


def size_of(entry: Entry) -> int:
    """The bytes of a model's folder, or about those that are to be fetched."""
    if entry.here:
        return sum(path.stat().st_size for path in entry.folder.rglob("*") if path.is_file())
    source = entry.model.source if entry.model else None
    return source.bytes if source else 0


def verify(entry: Entry) -> Iterator[Verdict]:
    """Compare every file of a model with its manifest, or, without one, with its own head.

    Raises ModelNotFound when it is not here, ModelBroken when its folder makes no sense at all.
    """
    require_installed(entry)
    if entry.problem:
        raise ModelBroken(entry.problem)
    inside = {
        path.relative_to(entry.folder).as_posix(): path
        for path in sorted(entry.folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }
    if entry.manifest is None:
        _check(entry.kind, entry.folder)
        known = getattr(entry.model, "sha256", {})
        for name, path in inside.items():
            right = name in known and known[name] == sha256_of(path)
            yield Verdict(name, "ok" if right else "changed" if name in known else "unknown")
        return
    for name, facts in entry.manifest.files.items():
        path = inside.pop(name, None)
        if path is None:
            yield Verdict(name, "missing")
            continue
        same = path.stat().st_size == facts.bytes and sha256_of(path) == facts.sha256
        yield Verdict(name, "ok" if same else "changed")
    yield from (Verdict(name, "extra") for name in inside)


def remove(entry: Entry) -> int:
    """Delete a model's folder, all at once, and what an attempt to fetch it has left; the bytes.

    Raises ModelError when it is part of the program or cannot be deleted.
    """
    unfinished = entry.folder.parent / f".{entry.name}.unfinished"
    if entry.name in EMBEDDED:
        raise ModelError(f"{entry.name} is part of Banatie and stays")
    if not unfinished.is_dir():
        require_installed(entry)
    size = size_of(entry) if entry.here else 0
    going = entry.folder.parent / f".{entry.name}.removed"
    try:
        with _alone(entry.folder):
            if entry.folder.is_symlink():
                entry.folder.unlink()
                size = 0
            elif entry.here:
                entry.folder.rename(going)
            for folder in (going, unfinished):
                if folder.is_dir():
                    shutil.rmtree(folder)
    except OSError as error:
        raise ModelError(f"{entry.folder} cannot be deleted: {error.strerror}") from error
    return size


def export(entry: Entry, file: Path, say: Callable[[str], None]) -> Manifest:
    """Write a model's folder into an archive, each file compared with its manifest on the way.

    `say` is told each step in a line. Raises ModelNotFound when it is not here, ModelBroken when a
    file is not what came, ModelError when `file` is there already or cannot be written.
    """
    require_installed(entry)
    if entry.problem:
        raise ModelBroken(entry.problem)
    if file.exists():
        raise ModelError(f"{file} is there already; name another file")
    manifest = entry.manifest
    if manifest is None:
        say("Reading the files, which no manifest describes yet")
        origin, settings = f"the folder {entry.folder.name}", _settings(entry)
        facts = file_digests(entry.folder)
        manifest = Manifest(
            entry.kind, entry.name, entry.title, entry.licence, origin, settings, facts
        )
    size = sum(facts.bytes for facts in manifest.files.values())
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        require_disk_space(file.name, size, file.absolute().parent)
        with tarfile.open(unfinished, "w") as archive:
            text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
            _add(
                archive,
                f"{entry.name}/{MANIFEST_FILE}",
                io.BytesIO(text.encode()),
                len(text.encode()),
            )
            for name, facts in manifest.files.items():
                say(f"{name}  {readable(facts.bytes)}")
                _add_file(archive, entry, name, facts)
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.rename(file)
    except OSError as error:
        raise ModelError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return manifest


def import_archive(file: Path, models_dir: Path, say: Callable[[str], None]) -> Manifest:
    """Unpack an archive that `export` wrote into its own folder below `models_dir`.

    `say` is told each step in a line; the model's name and folder follow from the manifest that is
    returned. Raises ModelBroken, with nothing left behind, when a file is not what the archive's
    manifest says, ModelError when there is a model of that name or no room for it.
    """
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with tarfile.open(file, "r:") as archive:
            manifest = _manifest_of(archive, file)
            folder = models_dir / manifest.name
            with _alone(folder):
                if folder.exists():
                    raise ModelError(
                        f"there is a model {manifest.name} already; remove it first: "
                        f"banatie models remove {manifest.name}"
                    )
                needed = sum(facts.bytes for facts in manifest.files.values())
                require_disk_space(manifest.name, needed, models_dir)
                say(f"{manifest.title} ({manifest.licence}), from {manifest.source}")
                unfinished = models_dir / f".{manifest.name}.importing"
                # What is left of an attempt that was killed.
                shutil.rmtree(unfinished, ignore_errors=True)
                try:
                    unfinished.mkdir()
                    _unpack(archive, manifest, file, unfinished, say)
                    _check(manifest.kind, unfinished)
                    write_manifest(unfinished, manifest)
                    unfinished.rename(folder)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
    except tarfile.TarError as error:
        raise ModelBroken(f"{file} is not a whole tar archive ({error}); copy it again") from error
    except OSError as error:
        raise ModelError(f"{file} cannot be brought in: {error}") from error
    return manifest


def require_installed(entry: Entry) -> None:
    """Raises ModelNotFound, with the remedy, when the model is not on this machine."""
    if not entry.here:
        source = entry.model.source if entry.model else None
        remedy = f"run: banatie models pull {entry.name}" if source else "bring it here first"
        raise ModelNotFound(f"the model {entry.name!r} is not on this machine; {remedy}")


def _check(kind: str, folder: Path) -> None:
    if kind == "painting":
        check_pipeline(folder)
    elif kind == "language":
        check_language_model(folder)
    else:
        for weights in folder.rglob("*.safetensors"):
            read_summary(weights)


def _settings(entry: Entry) -> dict:
    model = entry.model
    names = ("mode", "steps", "guidance_scale", "scheduler", "sizes")
    return {name: getattr(model, name) for name in names if hasattr(model, name)}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other commands away from a model while it is brought or removed."""
    try:
        with FileLock(folder.parent / f".{folder.name}.lock", timeout=0):
            yield
    except Timeout:
        raise ModelError(f"another process is at work on {folder.name}; wait for it") from None


def _add(archive: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    archive.addfile(member, content)


def _add_file(archive: tarfile.TarFile, entry: Entry, name: str, facts: FileDigest) -> None:
    damaged = f"{entry.name}/{name} is not what came; look with: banatie models verify {entry.name}"
    try:
        with (entry.folder / name).open("rb") as opened:
            reader = _Hashing(opened)
            if os.fstat(opened.fileno()).st_size != facts.bytes:
                raise ModelBroken(damaged)
            _add(archive, f"{entry.name}/{name}", reader, facts.bytes)
    except FileNotFoundError:
        raise ModelBroken(damaged) from None
    if reader.digest.hexdigest() != facts.sha256:
        raise ModelBroken(damaged)


class _Hashing(io.RawIOBase):
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self.digest.update(chunk)
        return chunk


def _manifest_of(archive: tarfile.TarFile, file: Path) -> Manifest:
    """The manifest that an archive begins with, and that makes sense."""
    first = archive.next()
    if first is None or not first.isreg() or first.size > LARGEST_MANIFEST:
        raise ModelBroken(f"{file} is not an archive of `banatie models export`")
    folder, _, name = first.name.rpartition("/")
    if name != MANIFEST_FILE or not is_name(folder):
        raise ModelBroken(f"{file} is not an archive of `banatie models export`")
    content = archive.extractfile(first).read()
    if len(content) != first.size:
        raise ModelBroken(f"{file} is cut off; copy it again")
    try:
        described = json.loads(content)
        files = {
            n: FileDigest(int(f["bytes"]), str(f["sha256"]))
            for n, f in described.pop("files").items()
        }
        manifest = Manifest(**described, files=files)
        texts = (manifest.title, manifest.licence, manifest.source)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a title, licence or source that is no text")
        dict(manifest.settings)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelBroken(f"the manifest in {file} makes no sense ({error})") from error
    if manifest.name != folder or manifest.kind not in ("painting", "language", "lora"):
        raise ModelBroken(f"the manifest in {file} describes another model than it holds")
    for name, facts in files.items():
        if not is_inside(name) or facts.bytes < 0:
            raise ModelBroken(f"{file} holds {name!r}, which leads out of the model's folder")
        if name.lower().endswith(CODE):
            raise ModelBroken(f"{file} holds {name}, which could carry code; nothing was let in")
    return manifest


def _unpack(
    archive: tarfile.TarFile,
    manifest: Manifest,
    file: Path,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    expected = dict(manifest.files)
    for member in archive:
        name = member.name.removeprefix(f"{manifest.name}/")
        facts = expected.pop(name, None)
        if member.name == name or facts is None:
            if member.name == f"{manifest.name}/{MANIFEST_FILE}" and not member.offset:
                continue
            raise ModelBroken(f"{file} holds {member.name!r}, which its manifest does not know")
        if not member.isreg() or member.issparse():
            raise ModelBroken(f"{file} holds {name} as something else than a plain file")
        say(f"{name}  {readable(facts.bytes)}")
        _unpack_file(archive, member, facts, file, folder / name)
    if expected:
        raise ModelBroken(f"{file} is cut off: {next(iter(expected))} is missing; copy it again")


def _unpack_file(
    archive: tarfile.TarFile, member: tarfile.TarInfo, facts: FileDigest, file: Path, place: Path
) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with archive.extractfile(member) as packed, place.open("xb") as unpacked:
        while chunk := packed.read(CHUNK_BYTES):
            digest.update(chunk)
            unpacked.write(chunk)
        unpacked.flush()
        os.fsync(unpacked.fileno())
    if member.size != facts.bytes or digest.hexdigest() != facts.sha256:
        raise ModelBroken(
            f"{member.name} in {file} is not what its manifest says (its SHA-256 differs); copy "
            "the archive again"
        )
