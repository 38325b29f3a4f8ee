"""The import of a model from a file or a folder of the user's: `banatie models import`.

What a single file holds is found out by `detect`, how a checkpoint is converted is for
`convert.checkpoint`, which alone needs torch, and how a folder gets its name is for `install`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from banatie.errors import ModelBroken, ModelError, ModelNotFound
from banatie.models.archive import import_archive
from banatie.models.detect import DetectedFile, detect
from banatie.models.detect_rules import SDXL_WIDTH
from banatie.models.install import Installation, install, require_installable
from banatie.models.manifest import Kind, Manifest, file_digests, read_manifest, sha256_of
from banatie.models.validate import (
    PIPELINE_CONFIGS,
    PIPELINE_MODELS,
    check_language_model,
    check_pipeline,
)

LORA_FILE = "lora.safetensors"

_OTHER_NAME = "give this one another name with --name, or "
_CONFIG_SUFFIXES = (".json", ".txt", ".jinja", ".model")
"""Of the files that are copied beside the weights."""
_LICENCE_PREFIXES = ("LICENSE", "NOTICE", "USE_POLICY")


def import_model(
    path: Path,
    models_dir: Path,
    report: Callable[[str], None],
    *,
    name: str | None = None,
    configs: Path | None = None,
) -> Manifest:
    """Import a model's folder, a checkpoint, a LoRA or an archive made by `models export`.

    The model is installed as `models_dir / name`; without a name it gets the file's or folder's.
    `configs` is for checkpoints that are not of SDXL's size: see `convert.checkpoint`. `report`
    gets each step in one line. Raises ModelNotFound, ModelBroken and ModelError, with nothing left
    behind.
    """
    path = path.expanduser().absolute()
    if path.suffix.lower() == ".tar" and path.is_file():
        if name is not None:
            raise ModelError("an archive contains its model's name; import it without --name")
        return import_archive(path, models_dir, report)
    if name is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name if path.is_dir() else path.stem)
        name = name.strip("-._")[:100] or "model"
    require_installable(name)
    if path.is_dir():
        return _import_folder(path, models_dir, report, name)
    detected = detect(path, _embedding_width(configs))
    if detected.format == "lora":
        return _import_lora(path, detected, models_dir, report, name)
    return _import_checkpoint(path, detected, models_dir, report, name, configs)


def _import_folder(
    path: Path, models_dir: Path, report: Callable[[str], None], name: str
) -> Manifest:
    if (path / "model_index.json").is_file():
        kind: Kind = "painting"
        weights = check_pipeline(path)
        components = (path / component for component in (*PIPELINE_MODELS, *PIPELINE_CONFIGS))
        files = [file for group in weights.values() for file in group]
        files += _config_files([path, *components])
    elif (path / "config.json").is_file():
        kind = "language"
        _require_causal_language_model(path)
        files = [*check_language_model(path), *_config_files([path])]
    else:
        loras = sorted(path.glob("*.safetensors"))
        remedy = f"if it is a LoRA, import the file: {loras[0]}" if loras else "use another folder"
        raise ModelBroken(
            f"{path} holds neither a pipeline (model_index.json) nor a language model "
            f"(config.json); {remedy}"
        )
    original = read_manifest(path)
    with install(models_dir, name) as installation:
        installation.require_new(_OTHER_NAME)
        installation.prepare(sum(file.stat().st_size for file in files))
        report(f"Copying {path.name}")
        for file in files:
            target = installation.folder / file.relative_to(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        manifest = Manifest(
            kind=kind,
            name=name,
            title=original.title if original else name,
            licence=original.licence if original else "unknown",
            source=original.source if original else f"the folder {path.name}",
            settings=original.settings if original else {},
        )
        return _publish(installation, manifest, report)


def _import_lora(
    path: Path, detected: DetectedFile, models_dir: Path, report: Callable[[str], None], name: str
) -> Manifest:
    with install(models_dir, name) as installation:
        installation.require_new(_OTHER_NAME)
        installation.prepare(path.stat().st_size)
        report(f"Copying {path.name}, a LoRA")
        shutil.copyfile(path, installation.folder / LORA_FILE)
        manifest = Manifest(
            kind="lora",
            name=name,
            title=detected.title or name,
            licence=detected.licence or "unknown",
            source=path.name,
            settings=detected.settings,
        )
        return _publish(installation, manifest, report)


def _import_checkpoint(
    path: Path,
    detected: DetectedFile,
    models_dir: Path,
    report: Callable[[str], None],
    name: str,
    configs: Path | None,
) -> Manifest:
    # float8 is converted to half precision, which is twice as large.
    size = path.stat().st_size * (2 if detected.dtype.startswith("F8") else 1)
    with install(models_dir, name) as installation:
        installation.require_new(_OTHER_NAME)
        installation.prepare(size)
        report(f"Reading {path.name}, a Stable Diffusion XL checkpoint")
        # Model sites look a file up by this hash.
        source = f"{path.name}, SHA-256 {sha256_of(path)}"
        report("Converting it")
        from banatie.models.convert.checkpoint import convert

        convert(path, detected, installation.folder, configs)
        check_pipeline(installation.folder)
        manifest = Manifest(
            kind="painting",
            name=name,
            title=detected.title or name,
            licence=detected.licence or "unknown",
            source=source,
            settings={},
        )
        return _publish(installation, manifest, report)


def _publish(
    installation: Installation, manifest: Manifest, report: Callable[[str], None]
) -> Manifest:
    report("Hashing the files")
    manifest = replace(manifest, files=file_digests(installation.folder))
    installation.publish(manifest)
    return manifest


def _config_files(folders: Iterable[Path]) -> list[Path]:
    return [
        file
        for folder in folders
        for file in sorted(folder.iterdir())
        if file.name.endswith(_CONFIG_SUFFIXES) or file.name.startswith(_LICENCE_PREFIXES)
        if file.is_file()
    ]


def _require_causal_language_model(folder: Path) -> None:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        classes = [str(name) for name in config.get("architectures") or [config["_class_name"]]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelBroken(
            f"{folder / 'config.json'} does not name its model's class ({error}); copy the folder "
            "again"
        ) from error
    if not any(name.endswith("ForCausalLM") for name in classes):
        raise ModelBroken(
            f"{folder} is a {classes[0]}, neither a pipeline nor a language model; "
            "import the whole folder that it is a part of"
        )


def _embedding_width(configs: Path | None) -> int:
    """The width of the text embeddings that a checkpoint's UNet attends to."""
    if configs is None:
        return SDXL_WIDTH
    file = configs / "unet" / "config.json"
    try:
        return int(json.loads(file.read_text("utf-8"))["cross_attention_dim"])
    except FileNotFoundError:
        raise ModelNotFound(
            f"{file} does not exist; name a folder in the diffusers layout"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelBroken(f"{file} cannot be read ({error}); copy it again") from error
