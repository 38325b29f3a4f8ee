"""A small disk that only the tested processes see: a tmpfs in a mount namespace of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

MOUNT = 'mount -t tmpfs -o "size=$1" tmpfs "$2" && echo mounted && exec sleep infinity'


class Disk:
    """A file system mounted on a folder, for as long as the process that holds it lives."""

    def __init__(self, folder: Path, size: str) -> None:
        """Skips the test where the user may not mount; `size` is in tmpfs's notation ("4m")."""
        folder.mkdir(exist_ok=True)
        command = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", size, str(folder)]
        self._holder = subprocess.Popen(
            command, cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.process = self._holder.pid
        self._name = str(folder)
        self.folder = Path(f"/proc/{self.process}/root{folder}")
        """The path for this process; the tested processes use the folder's own name."""
        self.launcher = ("nsenter", f"--target={self.process}", "--mount", "--wd")
        if self._holder.stdout.readline() != "mounted\n":
            reason = self._holder.stderr.read().strip()
            self.close()
            pytest.skip(f"disks can only be mounted by root outside of containers: {reason}")

    def fill(self) -> Path:
        """Fill the disk up; the file that takes the space."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                return ballast
        raise AssertionError("the disk cannot be filled")

    def make_read_only(self) -> None:
        """Remount it read-only; works only while nobody has a file open for writing."""
        command = [*self.launcher, "mount", "-o", "remount,ro", self._name]
        subprocess.run(command, check=True)

    def close(self) -> None:
        """Unmount it by ending the process that holds it; everything on it is lost."""
        self._holder.kill()
        self._holder.wait()
        self._holder.stdout.close()
        self._holder.stderr.close()
