"""The download of a model from a Hugging Face hub into a model's folder.

A file counts only when its hash is right: the hub's, and the catalog's where it has one. Files that
another model or the hub library's cache has already are hard-linked instead of downloaded. An
interrupted download is resumed by the next one. How the hub is asked is for `huggingface`, which
files are wanted for `download_plan`, and how a folder gets its name for `install`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from banatie.errors import ModelBroken, ModelNotFound
from banatie.models.convert.lora import fuse
from banatie.models.disk_space import format_bytes
from banatie.models.download_plan import DownloadPlan
from banatie.models.huggingface import Hub, Listing, RemoteFile
from banatie.models.install import Installation, install
from banatie.models.manifest import (
    CODE_SUFFIXES,
    FileDigest,
    Manifest,
    is_path_inside,
    read_manifest,
    sha256_of,
)
from banatie.models.types import RepositoryFiles
from banatie.models.validate import check_model, check_weights

Progress = Callable[[str, int, int], None]
"""Called with the file that is being downloaded, the bytes downloaded so far and their total."""


@dataclass(frozen=True)
class PlannedFile:
    """A file to download."""

    file: RemoteFile
    destination: str
    """Its path in the model's folder."""
    sha256: str
    """The hub's or the catalog's, which agree; empty when neither has one."""

    @property
    def part_name(self) -> str:
        """The name of the partial download, by which a later attempt finds the same content."""
        content = self.sha256 or [self.file.git_blob, self.file.commit, self.file.name]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def cache_path(self) -> str:
        """Where huggingface_hub's cache keeps it, if another program has downloaded it."""
        return f"models--{self.file.repository.replace('/', '--')}/blobs/{self.sha256}"


def download(
    plan: DownloadPlan,
    hub: Hub,
    report: Callable[[str], None],
    progress: Progress = lambda *_: None,
) -> Path:
    """Download and install a model; its folder.

    `report` gets each step in one line. An installed model is left as it is. Raises ModelError with
    the remedy; then nothing is installed, and the next call resumes the download.
    """
    try:
        with install(plan.models_dir, plan.name, resumable=True) as installation:
            if installation.exists:
                report(f"{plan.name} is already installed: {plan.folder}")
                return plan.folder
            _download(plan, hub, installation, report, progress)
    except KeyboardInterrupt:
        report("Interrupted; run the same command again to resume")
        raise
    report(f"{plan.name} is ready: {plan.folder}")
    return plan.folder


def _download(
    plan: DownloadPlan,
    hub: Hub,
    installation: Installation,
    report: Callable[[str], None],
    progress: Progress,
) -> None:
    repositories = dict.fromkeys(files.repository for files in plan.repositories)
    report(f"Asking {hub.endpoint} for {', '.join(repositories)}")
    files = _planned_files(plan.repositories, hub)
    folder, parts = installation.folder, installation.parts
    _link_known_files(files, folder, plan.models_dir)
    total = sum(planned.file.bytes for planned in files)
    done = sum(_bytes_present(planned, installation) for planned in files)
    # Merged weights are written beside the plain ones.
    extra = max(planned.file.bytes for planned in files) if plan.fused_lora else 0
    installation.prepare(total - done + extra)
    parts.mkdir(exist_ok=True)
    present = f", of which {format_bytes(done)} are already here" if done > total / 100 else ""
    report(f"{len(files)} files, {format_bytes(total)}{present}")
    digests = {}
    for planned in files:
        progress(planned.destination, done, total)

        def advance(count: int, name: str = planned.destination) -> None:
            nonlocal done
            done += count
            progress(name, done, total)

        digests[planned.destination] = _fetch(planned, hub, installation, advance)
    _delete_unplanned(folder, digests)
    if plan.fused_lora:
        report("Merging the LoRA into the UNet's weights")
        digests = _fuse_lora(installation, plan.fused_lora, digests)
    report("Checking the model")
    check_model(plan.kind, folder)
    commits = dict.fromkeys((planned.file.repository, planned.file.commit) for planned in files)
    source = ", ".join(f"{repository}@{commit}" for repository, commit in commits)
    installation.publish(
        Manifest(plan.kind, plan.name, plan.title, plan.licence, source, plan.settings, digests)
    )


def _planned_files(repositories: Sequence[RepositoryFiles], hub: Hub) -> list[PlannedFile]:
    """Every file of a model, the small ones first."""
    planned: dict[str, PlannedFile] = {}
    for wanted in repositories:
        listing = hub.listing(wanted.repository, wanted.revision)
        for name, destination in _destinations(wanted, listing):
            file, known = listing.files[name], wanted.digests.get(name)
            if not is_path_inside(destination):
                raise ModelBroken(
                    f"{wanted.repository} holds a file called {name!r}, which leads out of the "
                    "model's folder; nothing was downloaded"
                )
            sha256 = known.sha256 if known and known.sha256 else file.sha256
            if file.sha256 not in ("", sha256):
                raise ModelBroken(
                    f"{hub.endpoint} has another {name} of {wanted.repository} than the catalog "
                    "(its SHA-256 differs); nothing was downloaded: do not trust that hub"
                )
            planned[destination] = PlannedFile(file, destination, sha256)
    return sorted(planned.values(), key=lambda each: (each.file.bytes, each.destination))


def _destinations(wanted: RepositoryFiles, listing: Listing) -> Iterator[tuple[str, str]]:
    """The wanted files' names in the repository, and their paths in the model's folder."""
    missing = f"{wanted.repository} has no {{}} at {wanted.revision}"
    for pattern in wanted.files:
        matching = [
            name
            for name in listing.files
            if name.count("/") == pattern.count("/")
            and fnmatch.fnmatchcase(name, pattern)
            and not name.lower().endswith(CODE_SUFFIXES)
        ]
        if not matching and "*" not in pattern:
            raise ModelNotFound(missing.format(pattern))
        yield from ((name, name) for name in matching)
    for name, destination in wanted.destinations.items():
        if name not in listing.files:
            raise ModelNotFound(missing.format(name))
        yield name, destination


def _fetch(
    planned: PlannedFile, hub: Hub, installation: Installation, advance: Callable[[int], None]
) -> FileDigest:
    """Download a file, unless it is there already, and check its hash."""
    file, path = planned.file, installation.folder / planned.destination
    if path.exists():
        if sha256 := _verified_sha256(planned, path):
            return FileDigest(file.bytes, sha256)
        # A link to a file that has changed since, or the same name of another revision.
        advance(-path.stat().st_size)
        path.unlink()
    part = installation.parts / planned.part_name
    hub.fetch(file, part, advance)
    sha256 = _verified_sha256(planned, part)
    if not sha256:
        part.unlink()
        raise ModelBroken(
            f"{file.name} of {file.repository} is not what {hub.endpoint} says it is (its hash "
            "differs), and was deleted; run the command again, and if that does not help, set "
            "HF_ENDPOINT to another hub"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part.rename(path)
    return FileDigest(file.bytes, sha256)


def _delete_unplanned(folder: Path, digests: Mapping[str, FileDigest]) -> None:
    """Delete what an attempt at another revision has left."""
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in digests:
            path.unlink()


def _fuse_lora(
    installation: Installation, lora: str, digests: Mapping[str, FileDigest]
) -> dict[str, FileDigest]:
    """Merge the LoRA into the UNet's weights and delete it; the digests of all files then."""
    folder = installation.folder
    [weights] = check_weights(folder / "unet")
    fused = installation.staging / "fused.safetensors"
    fuse(folder / lora, weights, fused)
    # A new file: another model's folder may share the plain one by a hard link.
    fused.replace(weights)
    (folder / lora).unlink()
    name = weights.relative_to(folder).as_posix()
    digest = FileDigest(weights.stat().st_size, sha256_of(weights))
    return {n: known for n, known in digests.items() if n != lora} | {name: digest}


def _verified_sha256(planned: PlannedFile, path: Path) -> str:
    """The SHA-256 of a file with the right content; empty for any other."""
    if path.stat().st_size != planned.file.bytes:
        return ""
    sha256 = sha256_of(path)
    if planned.sha256 and planned.sha256 != sha256:
        return ""
    if planned.file.git_blob:
        # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        content = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        return sha256 if blob.hexdigest() == planned.file.git_blob else ""
    return sha256


def _link_known_files(files: Sequence[PlannedFile], folder: Path, models_dir: Path) -> None:
    """Hard-link what other models' folders, by their manifests, and the hub's cache have."""
    known: dict[str, Path] = {}
    for other in models_dir.iterdir():
        with contextlib.suppress(ModelBroken):
            if not other.name.startswith(".") and (manifest := read_manifest(other)):
                known |= {digest.sha256: other / n for n, digest in manifest.files.items()}
    for planned in files:
        path = folder / planned.destination
        if not planned.sha256 or path.exists():
            continue
        source = known.get(planned.sha256, Path(constants.HF_HUB_CACHE, planned.cache_path))
        if source.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Impossible across disks and on some file systems; then it is downloaded again.
            with contextlib.suppress(OSError):
                os.link(source, path)


def _bytes_present(planned: PlannedFile, installation: Installation) -> int:
    for path in (
        installation.folder / planned.destination,
        installation.parts / planned.part_name,
    ):
        if path.exists():
            return path.stat().st_size
    return 0
