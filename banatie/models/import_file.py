"""Bring a model that somebody has as a file or a folder under `models/`, whole or not at all.

Everything is made in one folder beside, which gets the model's name at the very end; what a killed
import has left there goes when the next one begins. What a single file is, is for `single_file` to
say, how a checkpoint is converted, for `conversion`, which alone needs torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from banatie.errors import ModelBroken, ModelError, ModelNotFound
from banatie.models.detect import SDXL_WIDTH, DetectedFile, detect
from banatie.models.disk_space import require_disk_space
from banatie.models.manifest import Kind, Manifest, file_digests, read_manifest, write_manifest
from banatie.models.validate import (
    PIPELINE_MODELS,
    PIPELINE_REST,
    check_language_model,
    check_pipeline,
    sha256_of,
)

LORA_FILE = "lora.safetensors"

_UNFINISHED = ".importing"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PLAIN = (".json", ".txt", ".jinja", ".model")
"""How the files of a model's folder end that are wanted beside its weights."""
_TERMS = ("LICENSE", "NOTICE", "USE_POLICY")


def import_model(
    path: Path,
    models_dir: Path,
    say: Callable[[str], None],
    *,
    name: str | None = None,
    configs: Path | None = None,
) -> Manifest:
    """Import a model's folder, a checkpoint, a LoRA or an archive made by `models export`.

    The model lies in `models_dir / name` then; without a name it gets the file's or folder's.
    `configs` is for checkpoints that are not of SDXL's size: see `conversion.convert`. `say` is
    told each step in a line. Raises ModelNotFound, ModelBroken and ModelError, with nothing left.
    """
    path = path.expanduser().absolute()
    if path.suffix.lower() == ".tar" and path.is_file():
        if name is not None:
            raise ModelError("an archive brings its model's name; import it without another one")
        from banatie.models.manage import import_archive

        return import_archive(path, models_dir, say)
    if name is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name if path.is_dir() else path.stem)
        name = name.strip("-._")[:100] or "model"
    elif not _NAME.fullmatch(name):
        raise ModelError(
            f"{name!r} cannot be a model's name: letters, digits, '.', '_' and '-' can be in it, "
            "and a letter or a digit first"
        )
    if path.is_dir():
        return _import_folder(path, models_dir, say, name)
    detected = detect(path, _width(configs))
    if detected.format == "lora":
        return _import_lora(path, detected, models_dir, say, name)
    return _import_checkpoint(path, detected, models_dir, say, name, configs)


def _import_folder(path: Path, models_dir: Path, say: Callable[[str], None], name: str) -> Manifest:
    if (path / "model_index.json").is_file():
        kind: Kind = "painting"
        weights = check_pipeline(path)
        parts = (path / part for part in (*PIPELINE_MODELS, *PIPELINE_REST))
        files = [file for part in weights.values() for file in part]
        files += _plain_files([path, *parts])
    elif (path / "config.json").is_file():
        kind = "language"
        _check_writes(path)
        files = [*check_language_model(path), *_plain_files([path])]
    else:
        loras = sorted(path.glob("*.safetensors"))
        remedy = f"if it is a LoRA, import the file: {loras[0]}" if loras else "take another folder"
        raise ModelBroken(
            f"{path} holds neither a pipeline (model_index.json) nor a language model "
            f"(config.json); {remedy}"
        )
    before = read_manifest(path)
    with _making(models_dir, name, sum(file.stat().st_size for file in files)) as folder:
        say(f"Copying {path.name}")
        for file in files:
            target = folder / file.relative_to(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        manifest = Manifest(
            kind=kind,
            name=name,
            title=before.title if before else name,
            licence=before.licence if before else "unknown",
            source=before.source if before else f"the folder {path.name}",
            settings=before.settings if before else {},
        )
        return _finish(folder, manifest, say)


def _import_lora(
    path: Path, detected: DetectedFile, models_dir: Path, say: Callable[[str], None], name: str
) -> Manifest:
    with _making(models_dir, name, path.stat().st_size) as folder:
        say(f"Copying {path.name}, a LoRA")
        shutil.copyfile(path, folder / LORA_FILE)
        manifest = Manifest(
            kind="lora",
            name=name,
            title=detected.title or name,
            licence=detected.licence or "unknown",
            source=path.name,
            settings=detected.settings,
        )
        return _finish(folder, manifest, say)


def _import_checkpoint(
    path: Path,
    detected: DetectedFile,
    models_dir: Path,
    say: Callable[[str], None],
    name: str,
    configs: Path | None,
) -> Manifest:
    # Half precision is the least that is kept, so that float8 becomes twice as large.
    size = path.stat().st_size * (2 if detected.dtype.startswith("F8") else 1)
    with _making(models_dir, name, size) as folder:
        say(f"Reading {path.name}, a Stable Diffusion XL checkpoint")
        # By this hash the sites that models come from find a file again.
        source = f"{path.name}, SHA-256 {sha256_of(path)}"
        say("Converting it")
        from banatie.models.convert.checkpoint import convert

        convert(path, detected, folder, configs)
        check_pipeline(folder)
        manifest = Manifest(
            kind="painting",
            name=name,
            title=detected.title or name,
            licence=detected.licence or "unknown",
            source=source,
            settings={},
        )
        return _finish(folder, manifest, say)


@contextmanager
def _making(models_dir: Path, name: str, size: int) -> Iterator[Path]:
    """An empty folder that becomes the model's if all goes well, and is gone if not.

    `size` is how many bytes will be in it.
    """
    target, unfinished = models_dir / name, models_dir / _UNFINISHED
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(models_dir / f"{_UNFINISHED}.lock", timeout=0):
            shutil.rmtree(unfinished, ignore_errors=True)
            if target.exists():
                raise ModelError(
                    f"there is a model called {name!r} already; give this one another name with "
                    f"--name, or run: banatie models remove {name}"
                )
            require_disk_space(name, size, models_dir)
            unfinished.mkdir()
            try:
                yield unfinished
                unfinished.rename(target)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except Timeout as error:
        raise ModelError("another import is going on; try again when it has ended") from error
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{name} cannot be written to {target}: {error}") from error


def _finish(folder: Path, manifest: Manifest, say: Callable[[str], None]) -> Manifest:
    """Write the manifest, and everything down to the disk itself."""
    say("Taking the hashes")
    manifest = replace(manifest, files=file_digests(folder))
    write_manifest(folder, manifest)
    for file in folder.rglob("*"):
        # What safetensors writes, its writer alone may read; another user may run the server.
        file.chmod(0o755 if file.is_dir() else 0o644)
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    return manifest


def _plain_files(folders: Iterable[Path]) -> list[Path]:
    return [
        file
        for folder in folders
        for file in sorted(folder.iterdir())
        if file.name.endswith(_PLAIN) or file.name.startswith(_TERMS)
        if file.is_file()
    ]


def _check_writes(folder: Path) -> None:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        classes = [str(name) for name in config.get("architectures") or [config["_class_name"]]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelBroken(f"{folder / 'config.json'} does not say what it is ({error})") from error
    if not any(name.endswith("ForCausalLM") for name in classes):
        raise ModelBroken(
            f"{folder} is a {classes[0]}, neither a pipeline nor a language model; "
            "import the whole folder that it is a part of"
        )


def _width(configs: Path | None) -> int:
    if configs is None:
        return SDXL_WIDTH
    file = configs / "unet" / "config.json"
    try:
        return int(json.loads(file.read_text("utf-8"))["cross_attention_dim"])
    except FileNotFoundError:
        raise ModelNotFound(f"{file} is not there; name a folder in the diffusers layout") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelBroken(f"{file} cannot be read ({error})") from error
