"""The import of an IP-Adapter: its file, and the folder of the image encoder that it reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from banatie.errors import ModelBroken
from banatie.models.install import Installation
from banatie.models.ip_adapter import (
    ADAPTER_FILE,
    IMAGE_ENCODER,
    AdapterShape,
    adapter_shape,
    check_image_encoder,
)
from banatie.models.manifest import Manifest, file_digests, sha256_of
from banatie.models.safetensors_header import read_header


def find_image_encoder(file: Path, given: Path | None) -> tuple[Path, list[Path]]:
    """The folder of the encoder that an adapter's file needs, and the encoder's weight files.

    Without a `given` folder it is looked for beside the file, and where h94/IP-Adapter keeps it.
    Raises ModelBroken, with the remedy.
    """
    shape = adapter_shape(read_header(file), file.name)
    if given is not None:
        return given, check_image_encoder(given, shape)
    for folder in _places(file):
        if folder.is_dir() and (found := _fitting(folder, shape)):
            return folder, found
    raise ModelBroken(
        f"{file.name} is an IP-Adapter, which needs the CLIP image encoder that it was trained "
        f"with (embeddings {shape.image_width} wide), and there is none beside it; name its folder "
        "with --image-encoder (of h94/IP-Adapter: models/image_encoder)"
    )


def copy_ip_adapter(
    file: Path, encoder: Path, weights: list[Path], installation: Installation, manifest: Manifest
) -> Manifest:
    """Copy both into the installation and publish it; the manifest with the files' digests."""
    shutil.copyfile(file, installation.folder / ADAPTER_FILE)
    target = installation.folder / IMAGE_ENCODER
    target.mkdir()
    for source in (encoder / "config.json", *weights):
        shutil.copyfile(source, target / source.name)
    sha256 = sha256_of(file)
    complete = replace(
        manifest,
        source=f"{manifest.source}, SHA-256 {sha256}",
        original_sha256=sha256,
        files=file_digests(installation.folder),
    )
    installation.publish(complete)
    return complete


def _places(file: Path) -> Iterator[Path]:
    yield file.parent / IMAGE_ENCODER
    yield file.parent.parent / "models" / IMAGE_ENCODER


def _fitting(folder: Path, shape: AdapterShape) -> list[Path]:
    try:
        return check_image_encoder(folder, shape)
    except ModelBroken:
        return []
