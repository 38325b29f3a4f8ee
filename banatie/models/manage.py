"""What is done with installed models: their size, verification and removal.

How a model is installed is for `install`; which one is in use is the configuration's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from banatie.errors import ModelBroken, ModelError
from banatie.models.bundled import BUNDLED_MODELS
from banatie.models.catalog import Catalog, require_installed
from banatie.models.install import is_partly_installed, uninstall
from banatie.models.manifest import MANIFEST_FILE, sha256_of
from banatie.models.types import Entry, LanguageModel
from banatie.models.validate import check_model

State = Literal["ok", "changed", "missing", "extra", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """The result of verifying one file."""

    name: str
    state: State
    """extra: the manifest does not list it. unknown: there is no manifest, and it looks valid."""


def size_of(entry: Entry) -> int:
    """The bytes of an installed model's folder, or roughly of what would be downloaded."""
    if entry.installed:
        return sum(path.stat().st_size for path in entry.folder.rglob("*") if path.is_file())
    source = entry.model.source if entry.model else None
    return source.bytes if source else 0


def verify(entry: Entry) -> Iterator[Verdict]:
    """Compare every file of a model with its manifest or, without one, with its own header.

    Raises ModelNotFound when it is not installed, ModelBroken when its folder is unusable.
    """
    require_installed(entry)
    if entry.problem:
        raise ModelBroken(entry.problem)
    files = {
        path.relative_to(entry.folder).as_posix(): path
        for path in sorted(entry.folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }
    if entry.manifest is None:
        yield from _verify_without_manifest(entry, files)
        return
    for name, digest in entry.manifest.files.items():
        if name not in files:
            yield Verdict(name, "missing")
            continue
        path = files.pop(name)
        same = path.stat().st_size == digest.bytes and sha256_of(path) == digest.sha256
        yield Verdict(name, "ok" if same else "changed")
    yield from (Verdict(name, "extra") for name in files)


def remove(catalog: Catalog, name: str) -> int:
    """Delete a model and whatever an interrupted installation of it has left; the bytes freed.

    Raises ModelNotFound when there is nothing of it, ModelError when it is bundled, locked by
    another process or cannot be deleted.
    """
    if name in BUNDLED_MODELS:
        raise ModelError(f"{name} is bundled with Banatie and cannot be removed")
    size = 0
    if not is_partly_installed(catalog.models_dir, name):
        require_installed(catalog.entry(name))
    folder = catalog.models_dir / name
    if folder.is_dir() and not folder.is_symlink():
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    uninstall(catalog.models_dir, name)
    return size


def _verify_without_manifest(entry: Entry, files: dict[str, Path]) -> Iterator[Verdict]:
    check_model(entry.kind, entry.folder)
    known = entry.model.sha256 if isinstance(entry.model, LanguageModel) else {}
    for name, path in files.items():
        if name in known:
            yield Verdict(name, "ok" if known[name] == sha256_of(path) else "changed")
        else:
            yield Verdict(name, "unknown")
