"""The pictures' files: written atomically, found by their storage key.

What a file contains and which row refers to it are unknown here.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, get_args

from banatie.errors import DataFolderUnusable
from banatie.filesystem import sync_folder
from banatie.imaging.thumbnails import Thumbnails
from banatie.records import ImageFormat, ImageSource

UNFINISHED = ".part"
BEING_REPLACED = stat.S_ISVTX
"""The mode bit of a file that another is about to replace. Its length must not be trusted by who
opens it a second time."""
THUMBNAILS = "thumbnails"
FOLDERS: tuple[ImageSource, ...] = get_args(ImageSource)
"""The folders of a project."""
SUFFIXES: dict[ImageFormat, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


class Files:
    """The storage folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.thumbnails = Thumbnails(folder.with_name(THUMBNAILS))
        """Smaller copies of the pictures, beside the storage folder."""

    def path(self, storage_key: str) -> Path:
        """The path of the file with this storage key."""
        return self.folder.joinpath(*storage_key.split("/"))

    @contextmanager
    def prepared(self, storage_key: str, data: bytes) -> Iterator[Callable[[], None]]:
        """Write a file durably under a temporary name, for the length of the block.

        The function that the block gets makes it appear under its own name, atomically and durably,
        in place of the file that was there. It is to be called in the transaction that writes the
        row. If the block ends without it, or raises, no new file is left. Until the block ends, no
        sweep takes the file for an orphan. Raises DataFolderUnusable.
        """
        path = self.path(storage_key)
        unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
        is_new = not path.exists()
        if not is_new:
            # Some systems refuse the bit; then only who opens the file once gets the whole.
            with suppress(OSError):
                path.chmod(path.stat().st_mode | BEING_REPLACED)

        def publish() -> None:
            with _reporting_failure():
                unfinished.replace(path)
                sync_folder(path.parent)

        with ExitStack() as stack:
            try:
                with _reporting_failure():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    file = stack.enter_context(_open_locked(unfinished))
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield publish
            except Exception:
                if is_new:
                    with suppress(OSError):
                        path.unlink()
                raise
            finally:
                with suppress(OSError):
                    unfinished.unlink()

    def save(self, storage_key: str, data: bytes) -> None:
        """Write the file atomically and durably: it appears under its name complete, or never.

        Raises DataFolderUnusable.
        """
        with self.prepared(storage_key, data) as publish:
            publish()

    def remove(self, storage_key: str) -> None:
        """Delete the file if it exists, and its smaller copies."""
        path = self.path(storage_key)
        path.unlink(missing_ok=True)
        self.thumbnails.remove(path.stem)

    def stored(self) -> set[str]:
        """The storage keys of all files, unfinished ones included."""
        paths = (path for folder in FOLDERS for path in self.folder.glob(f"*/*/{folder}/*"))
        return {path.relative_to(self.folder).as_posix() for path in paths}

    @contextmanager
    def abandoned(self, storage_key: str) -> Iterator[bool]:
        """Whether nobody is writing this file or its row; for the block, nobody begins to."""
        try:
            file = self.path(storage_key).open("rb")
        except OSError:
            yield False
            return
        with file:
            yield _lock(file, wait=False)


def is_being_replaced(status: os.stat_result) -> bool:
    """Whether another file may take this one's place at any moment."""
    return bool(status.st_mode & BEING_REPLACED)


def image_key(
    organization_slug: str, project_id: str, image_id: str, source: ImageSource, form: ImageFormat
) -> str:
    """The storage key of an image."""
    name = f"{image_id}{SUFFIXES[form]}"
    return f"{organization_slug}/{project_id}/{source}/{name}"


def generated_key(
    organization_slug: str, project_id: str, image_id: str, form: ImageFormat = "png"
) -> str:
    """The storage key of a generated image."""
    return image_key(organization_slug, project_id, image_id, "generated", form)


@contextmanager
def _reporting_failure() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Most likely the disk is full.
        reason = f"The picture could not be saved: {error.strerror}"
        raise DataFolderUnusable(reason) from error


@contextmanager
def _open_locked(path: Path) -> Iterator[IO[bytes]]:
    """Create the file and lock it until the end of the block, or of the process."""
    while True:
        with path.open("wb") as file:
            _lock(file, wait=True)
            # A sweep may have had the lock first, and deleted the file.
            if os.name != "posix" or os.fstat(file.fileno()).st_nlink:
                yield file
                return


def _lock(file: IO[bytes], *, wait: bool) -> bool:
    """Lock the file itself, under whatever name; False if another has it and `wait` is false."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def make_data_folder(data: Path) -> None:
    """Create the data folder if it does not exist, for its owner alone: it holds prompts.

    Raises DataFolderUnusable.
    """
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DataFolderUnusable(
            f"the data folder {data.absolute()} cannot be created ({error.strerror}); run the "
            "command in another folder, or set storage.data_dir"
        ) from error
