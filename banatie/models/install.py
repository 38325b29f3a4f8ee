"""The install protocol: atomic installation and removal of model folders.

    lock  →  hidden folder  →  disk space  →  files  →  manifest  →  fsync  →  atomic rename

A download, a wheel, an import and an archive each fill the hidden folder `.NAME.installing`;
removing a model moves it there first. So the folder NAME is complete or does not exist, whenever
the process is killed or the power fails, and one lock per name keeps all commands apart. An
interrupted installation is resumed or deleted by the next one. Where the files come from is not
known here.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from banatie.errors import ModelError
from banatie.filesystem import sync_folder
from banatie.models.bundled import BUNDLED_MODELS
from banatie.models.catalog import Catalog
from banatie.models.disk_space import require_disk_space
from banatie.models.manifest import Kind, Manifest, is_model_name, write_manifest
from banatie.models.types import kind_of

_SUFFIX = ".installing"
_CALLED: Mapping[Kind, str] = {
    "painting": "a painting model",
    "language": "a language model",
    "ip-adapter": "an IP-Adapter",
}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Installation:
    """A model that is being installed, while its lock is held."""

    name: str
    target: Path
    """The model's folder; it does not exist before `publish`, or is the one to be replaced."""
    staging: Path
    """The hidden folder, for everything that is needed meanwhile."""

    @property
    def folder(self) -> Path:
        """The folder that becomes the model's."""
        return self.staging / "model"

    @property
    def parts(self) -> Path:
        """The folder of partial downloads. Where it exists, only a finished installation or the
        model's removal deletes it."""
        return self.staging / "parts"

    @property
    def exists(self) -> bool:
        """Whether a model of this name is installed already."""
        return self.target.exists()

    def require_new(self, remedy: str = "") -> None:
        """Raises ModelError when a model of this name is installed already."""
        if self.exists:
            raise ModelError(
                f"a model called {self.name!r} is already installed; {remedy}"
                f"run: banatie models remove {self.name}"
            )

    def prepare(self, needed: int) -> None:
        """Make `folder`, for which the disk must have `needed` more bytes. Raises ModelError."""
        require_disk_space(self.name, needed, self.target.parent)
        self.folder.mkdir(parents=True, exist_ok=True)

    def publish(self, manifest: Manifest) -> None:
        """Give `folder` the model's name, with its manifest and safely on the disk.

        A folder that has the name already is replaced.
        """
        write_manifest(self.folder, manifest)
        _make_readable(self.folder)
        _sync_tree(self.folder)
        if self.exists:
            self.target.rename(self.staging / "replaced")
        self.folder.rename(self.target)
        sync_folder(self.target.parent)


@contextmanager
def install(models_dir: Path, name: str, *, resumable: bool = False) -> Iterator[Installation]:
    """Hold the lock of the model `name`, for a block that fills `folder` and calls `publish`.

    If the block fails, nothing of it is left; if it is `resumable`, the hidden folder stays for the
    next attempt. Raises ModelError, with the remedy, when the name cannot be used, when another
    process holds the lock or when the files cannot be written.
    """
    require_installable(name)
    staging = _staging_folder(models_dir, name)
    # Imported here, because the web process uses this module and installs nothing itself.
    from safetensors import SafetensorError

    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with _lock(models_dir, name):
            installation = Installation(name, models_dir / name, staging)
            _clean_up_others(models_dir, staging)
            if not resumable or not installation.parts.is_dir():
                _clean_up(installation.target, staging)
            keep = resumable
            try:
                yield installation
                keep = False
            finally:
                if not keep:
                    _clean_up(installation.target, staging)
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            raise ModelError(
                f"the disk of {models_dir} is full; free some space and run the command again"
                f"{' (it resumes the download)' if resumable else ''}, or set storage.models_dir "
                "to a folder on another disk"
            ) from error
        raise ModelError(f"{name} could not be installed in {models_dir}: {error}") from error


def uninstall(models_dir: Path, name: str) -> None:
    """Delete a model's folder and whatever an interrupted installation has left.

    Of a symbolic link only the link is deleted. Raises ModelError when it cannot be deleted or when
    another process holds the model's lock.
    """
    folder, staging = models_dir / name, _staging_folder(models_dir, name)
    try:
        with _lock(models_dir, name):
            if folder.is_symlink():
                folder.unlink()
            elif folder.is_dir():
                staging.mkdir(exist_ok=True)
                removed = staging / "removed"
                if removed.exists():
                    shutil.rmtree(removed)
                # All at once; a server never sees half a model.
                folder.rename(removed)
            if staging.is_dir():
                shutil.rmtree(staging)
    except OSError as error:
        raise ModelError(f"{folder} cannot be deleted: {error.strerror}") from error


def is_partly_installed(models_dir: Path, name: str) -> bool:
    """Whether an interrupted installation or removal of this model has left something."""
    return is_model_name(name) and _staging_folder(models_dir, name).is_dir()


def require_installable(name: str) -> None:
    """Raises ModelError when no model can be installed under this name."""
    if not is_model_name(name):
        raise ModelError(
            f"{name!r} cannot be a model's name: use letters, digits, '.', '_' and '-', and begin "
            "with a letter or a digit"
        )
    # Some disks do not tell capital letters from small ones.
    if name.lower() in BUNDLED_MODELS:
        raise ModelError(
            f"{name} is bundled with Banatie and cannot be replaced; install the model under "
            "another name"
        )


def require_kind(name: str, kind: Kind, models_dir: Path) -> None:
    """Raises ModelError when the catalog knows a model of another kind by this name.

    That one could not be installed any more, and this one would not be found.
    """
    for model in Catalog(models_dir).models:
        known = kind_of(model)
        if model.name.lower() == name.lower() and known != kind:
            raise ModelError(
                f"{name} is the name of {_CALLED[known]} in the catalog; install this one under "
                "another name"
            )


@contextmanager
def _lock(models_dir: Path, name: str) -> Iterator[None]:
    """Hold the model's lock, which the kernel releases when the process ends.

    Raises ModelError at once if another process holds it.
    """
    try:
        with FileLock(models_dir / f".{name}.lock", timeout=0):
            yield
    except Timeout:
        raise ModelError(f"another process is installing or removing {name}; wait for it") from None


def _staging_folder(models_dir: Path, name: str) -> Path:
    return models_dir / f".{name}{_SUFFIX}"


def _clean_up(target: Path, staging: Path) -> None:
    """Delete what an installation has left."""
    replaced = staging / "replaced"
    if replaced.is_dir() and not target.exists():
        # `publish` was interrupted between its two renames.
        replaced.rename(target)
    shutil.rmtree(staging, ignore_errors=True)


def _clean_up_others(models_dir: Path, own: Path) -> None:
    """Delete what killed processes have left of other models, unless it can be resumed."""
    for staging in models_dir.glob(f".*{_SUFFIX}"):
        name = staging.name.removeprefix(".").removesuffix(_SUFFIX)
        if staging != own and not (staging / "parts").is_dir():
            # A running installation holds its lock.
            with suppress(ModelError), _lock(models_dir, name):
                _clean_up(models_dir / name, staging)


def _make_readable(folder: Path) -> None:
    """Let every user read the files: the server may run as another one than the installer."""
    for path in (folder, *folder.rglob("*")):
        # Disks of Windows (NTFS, exFAT, CIFS) may refuse: permissions are not theirs to keep.
        with suppress(OSError):
            if path.is_dir():
                path.chmod(0o755)
            # A hard link shares its permissions with another model or another program's cache.
            elif path.stat().st_nlink == 1:
                path.chmod(0o644)


def _sync_tree(folder: Path) -> None:
    """Flush every file and folder to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as opened:
                os.fsync(opened.fileno())
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)
