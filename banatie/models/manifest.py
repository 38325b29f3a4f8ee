"""What a model's folder says of itself: `banatie.json`, written when the model came here.

Where it is from, under which licence, with which settings it does best, and each file's size and
SHA-256, by which it can be verified later. Pure data; how it got here is told in other modules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from banatie.errors import ModelBroken
from banatie.models.validate import sha256_of

MANIFEST_FILE = "banatie.json"

CODE = (".bin", ".ckpt", ".dll", ".pickle", ".pkl", ".pt", ".pth", ".py", ".so")
"""Endings of files that are code or can carry it, and so have no place in a model's folder."""

Kind = Literal["painting", "language", "lora"]


@dataclass(frozen=True)
class FileDigest:
    """By what a file is known to be the one that came."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A model that was brought here by Banatie."""

    kind: Kind
    name: str
    title: str
    licence: str
    source: str
    """For people: a repository and its revision, or a file's name."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """As in the catalog: steps, guidance_scale, scheduler, sizes; a language model's way."""
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    """By their paths below the folder, with forward slashes."""


def read_manifest(folder: Path) -> Manifest | None:
    """What the folder says of itself; None where it says nothing.

    Raises ModelBroken when it cannot be read.
    """
    file = folder / MANIFEST_FILE
    try:
        content = json.loads(file.read_text("utf-8"))
        files = {name: FileDigest(**facts) for name, facts in content.pop("files").items()}
        return Manifest(**content, files=files)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelBroken(f"{file} cannot be read ({error}); bring the model anew") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it into the folder."""
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False)
    (folder / MANIFEST_FILE).write_text(text + "\n", "utf-8")


def file_digests(folder: Path) -> dict[str, FileDigest]:
    """Size and SHA-256 of every file below the folder, but for the manifest itself."""
    return {
        path.relative_to(folder).as_posix(): FileDigest(path.stat().st_size, sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }


def is_name(name: str) -> bool:
    """Whether a model may be called so: it is a folder's name on every system."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is not None


def is_inside(name: str) -> bool:
    """Whether this path of a file leads to somewhere below a model's folder, on every system."""
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    plain = name == path.as_posix() == windows.as_posix() and name not in ("", ".", MANIFEST_FILE)
    anchored = path.is_absolute() or windows.drive or windows.root
    return plain and not anchored and ".." not in path.parts and "\0" not in name
