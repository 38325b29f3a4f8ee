"""The manifest of a model's folder: `banatie.json`, written when the model is installed.

Where the model is from, its licence, its recommended settings, and the size and SHA-256 of each
file, by which it can be verified later. Knows nothing of how a model is installed or used.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from banatie.errors import ModelBroken

MANIFEST_FILE = "banatie.json"

CODE_SUFFIXES = (".bin", ".ckpt", ".dll", ".pickle", ".pkl", ".pt", ".pth", ".py", ".so")
"""Files that are code or can carry it; they are never installed."""

Kind = Literal["painting", "language", "lora", "ip-adapter"]
SETTINGS: Mapping[str, str] = {
    "painting": "painting.model",
    "language": "enhancement.model",
    "ip-adapter": "painting.ip_adapter",
}
"""The setting that names the model in use, by the model's kind."""


@dataclass(frozen=True)
class FileDigest:
    """A file's size and hash."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The description of an installed model."""

    kind: Kind
    name: str
    title: str
    licence: str
    source: str
    """For people: a repository and its revision, or a file's name."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """As in the catalog: steps, guidance_scale, scheduler, sizes; a language model's mode."""
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    """By their paths below the folder, with forward slashes."""
    original_sha256: str = ""
    """Of the single file that it was imported from, by which model sites know it."""
    original_weights_sha256: str = ""
    """Of that file without its safetensors header, by which a LoRA is known; empty for others."""
    changed: str = ""
    """What the import changed in that file, for people; empty when nothing was."""


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a model's folder; None when it has none.

    Raises ModelBroken when it cannot be read.
    """
    file = folder / MANIFEST_FILE
    try:
        content = json.loads(file.read_text("utf-8"))
        files = {name: FileDigest(**digest) for name, digest in content.pop("files").items()}
        return Manifest(**content, files=files)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelBroken(f"{file} cannot be read ({error}); install the model again") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into the folder."""
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(manifest))


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest file's content."""
    return (json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n").encode()


def file_digests(folder: Path) -> dict[str, FileDigest]:
    """Size and SHA-256 of every file below the folder, except the manifest itself."""
    return {
        path.relative_to(folder).as_posix(): FileDigest(path.stat().st_size, sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file. Raises ModelBroken when it cannot be read."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ModelBroken(f"{file} cannot be read ({error.strerror})") from error


def is_model_name(name: str) -> bool:
    """Whether `name` can be a model's name: a valid folder name on every system."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is not None


def is_path_inside(path: str) -> bool:
    """Whether a file's path stays below the model's folder, on every system."""
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    plain = path == posix.as_posix() == windows.as_posix() and path not in ("", ".", MANIFEST_FILE)
    anchored = posix.is_absolute() or windows.drive or windows.root
    return plain and not anchored and ".." not in posix.parts and "\0" not in path
