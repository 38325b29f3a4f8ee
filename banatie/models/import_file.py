"""The import of a model from a file or a folder of the user's: `banatie models import`.

What a single file holds is found out by `detect`, how a checkpoint or a LoRA is converted is for
`convert`, which alone needs torch, and how a folder gets its name is for `install`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from banatie.errors import ModelBroken, ModelError, ModelNotFound
from banatie.models.archive import LORA_CHECK, import_archive
from banatie.models.detect import DetectedFile, detect
from banatie.models.detect_rules import SDXL_WIDTH
from banatie.models.import_ip_adapter import copy_ip_adapter, find_image_encoder
from banatie.models.install import Installation, install, require_installable, require_kind
from banatie.models.ip_adapter import check_layers
from banatie.models.manifest import Kind, Manifest, file_digests, read_manifest, sha256_of
from banatie.models.safetensors_header import read_header, weights_sha256
from banatie.models.validate import (
    PIPELINE_CONFIGS,
    PIPELINE_MODELS,
    check_language_model,
    check_pipeline,
)

Prediction = Literal["v", "epsilon"]

LORA_FILE = "lora.safetensors"

MAX_NAME_LENGTH = 100
NAME_HASH_DIGITS = 8

_OTHER_NAME = "give this one another name with --name, or "
_ONLY_IP_ADAPTERS = "--image-encoder is for the file of an IP-Adapter"
_ONLY_CHECKPOINTS = (
    "--prediction is for checkpoints; a folder says it in scheduler/scheduler_config.json, and a "
    "LoRA or an IP-Adapter is used as the painting model predicts"
)
_V_PREDICTION = re.compile(r"(?<![a-z])v[-_ ]?(pred(iction)?|param\w*)(?![a-z])", re.IGNORECASE)
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
    prediction: Prediction | None = None,
    image_encoder: Path | None = None,
) -> Manifest:
    """Import a model's folder, a checkpoint, a LoRA, an IP-Adapter, or an archive of a model.

    The model is installed as `models_dir / name`; without a name it gets the file's or folder's.
    `configs` is for checkpoints and LoRAs that are not of SDXL's structure: see
    `convert.checkpoint`. `prediction` is what a checkpoint was trained to predict, where the file
    does not say it, and `image_encoder` the folder that an IP-Adapter needs, where it is not
    beside the file. `report` gets each step in one line. Raises ModelNotFound, ModelBroken and
    ModelError, with nothing left behind.
    """
    path = path.expanduser().absolute()
    if prediction is not None and path.suffix.lower() != ".safetensors":
        raise ModelError(_ONLY_CHECKPOINTS)
    if image_encoder is not None and path.suffix.lower() != ".safetensors":
        raise ModelError(_ONLY_IP_ADAPTERS)
    if path.suffix.lower() == ".tar" and path.is_file():
        if name is not None:
            raise ModelError("an archive contains its model's name; import it without --name")
        return import_archive(path, models_dir, report, configs)
    if name is None:
        name = model_name(path.name if path.is_dir() else path.stem)
    require_installable(name)
    if path.is_dir():
        return _import_folder(path, models_dir, report, name)
    detected = detect(path, _embedding_width(configs))
    if image_encoder is not None and detected.format != "ip-adapter":
        raise ModelError(_ONLY_IP_ADAPTERS)
    if prediction is not None and detected.format != "checkpoint":
        raise ModelError(_ONLY_CHECKPOINTS)
    if detected.format == "ip-adapter":
        return _import_ip_adapter(path, models_dir, report, name, configs, image_encoder)
    if detected.format == "lora":
        return _import_lora(path, detected, models_dir, report, name, configs)
    if prediction is not None:
        predicts: Literal["noise", "velocity"] = "velocity" if prediction == "v" else "noise"
        detected = replace(detected, predicts=predicts, prediction_marked=True)
    return _import_checkpoint(path, detected, models_dir, report, name, configs)


def model_name(text: str) -> str:
    """The name that a model gets of its file's name: Latin letters, digits, '.', '_' and '-'.

    Accents are left out. Where whole letters are, or nothing would be left, a hash of the file's
    name keeps the names of different files apart.
    """
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(each for each in decomposed if not unicodedata.combining(each))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")
    # Letters, digits, symbols, and bytes that are no text.
    is_lossy = any(not each.isascii() and unicodedata.category(each)[0] in "LNSC" for each in plain)
    if not is_lossy and name:
        return name[:MAX_NAME_LENGTH]
    digest = hashlib.sha256(os.fsencode(text)).hexdigest()[:NAME_HASH_DIGITS]
    name = name[: MAX_NAME_LENGTH - NAME_HASH_DIGITS - 1] or "model"
    return f"{name}-{digest}"


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
    require_kind(name, kind, models_dir)
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
            source=original.source if original else f"the folder {_text(path.name)}",
            settings=original.settings if original else {},
            original_sha256=original.original_sha256 if original else "",
            original_weights_sha256=original.original_weights_sha256 if original else "",
            changed=original.changed if original else "",
        )
        return _publish(installation, manifest, report)


def _import_lora(
    path: Path,
    detected: DetectedFile,
    models_dir: Path,
    report: Callable[[str], None],
    name: str,
    configs: Path | None,
) -> Manifest:
    require_kind(name, "lora", models_dir)
    with install(models_dir, name) as installation:
        installation.require_new(_OTHER_NAME)
        # float8 becomes half precision, which is twice as large.
        installation.prepare(path.stat().st_size * (2 if detected.dtype.startswith("F8") else 1))
        report(f"Reading {path.name}, a LoRA")
        report(LORA_CHECK)
        from banatie.models.convert.canonical_lora import write_canonical
        from banatie.models.convert.structure import layers_of

        changed = write_canonical(
            _readable(path, installation), installation.folder / LORA_FILE, layers_of(configs)
        )
        sha256 = sha256_of(path)
        manifest = Manifest(
            kind="lora",
            name=name,
            title=detected.title or _text(path.stem),
            licence=detected.licence or "unknown",
            source=f"{_text(path.name)}, SHA-256 {sha256}",
            settings=detected.settings,
            original_sha256=sha256,
            original_weights_sha256=weights_sha256(path),
            changed=changed,
        )
        return _publish(installation, manifest, report)


def _import_ip_adapter(
    path: Path,
    models_dir: Path,
    report: Callable[[str], None],
    name: str,
    configs: Path | None,
    encoder: Path | None,
) -> Manifest:
    require_kind(name, "ip-adapter", models_dir)
    from banatie.models.convert.structure import layers_of

    check_layers(read_header(path), path.name, layers_of(configs)["unet"])
    folder, weights = find_image_encoder(path, encoder)
    with install(models_dir, name) as installation:
        installation.require_new(_OTHER_NAME)
        installation.prepare(sum(file.stat().st_size for file in (path, *weights)))
        report(f"Copying {path.name}, an IP-Adapter, and its image encoder from {folder}")
        source = f"{_text(path.name)} and the image encoder in the folder {_text(folder.name)}"
        manifest = Manifest("ip-adapter", name, _text(path.stem), "unknown", source)
        return copy_ip_adapter(path, folder, weights, installation, manifest)


def _import_checkpoint(
    path: Path,
    detected: DetectedFile,
    models_dir: Path,
    report: Callable[[str], None],
    name: str,
    configs: Path | None,
) -> Manifest:
    require_kind(name, "painting", models_dir)
    # float8 is converted to half precision, which is twice as large.
    size = path.stat().st_size * (2 if detected.dtype.startswith("F8") else 1)
    with install(models_dir, name) as installation:
        installation.require_new(_OTHER_NAME)
        installation.prepare(size)
        report(f"Reading {path.name}, a Stable Diffusion XL checkpoint")
        named = _V_PREDICTION.search(path.stem) or _V_PREDICTION.search(detected.title)
        if named and not detected.prediction_marked:
            report(
                f"Its name says {named[0]!r}, but nothing in the file does, so it is imported as "
                "one that predicts noise; if its pictures are noise, remove it and import it with "
                "--prediction v"
            )
        # Model sites look a file up by this hash.
        sha256 = sha256_of(path)
        report("Converting it")
        from banatie.models.convert.checkpoint import convert

        convert(_readable(path, installation), detected, installation.folder, configs)
        check_pipeline(installation.folder)
        manifest = Manifest(
            kind="painting",
            name=name,
            title=detected.title or _text(path.stem),
            licence=detected.licence or "unknown",
            source=f"{_text(path.name)}, SHA-256 {sha256}",
            settings={},
            original_sha256=sha256,
            changed="converted to the diffusers layout",
        )
        return _publish(installation, manifest, report)


def _readable(path: Path, installation: Installation) -> Path:
    """The file under a path that is text, which the safetensors library requires."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        link = installation.staging / f"{installation.name}.safetensors"
        link.symlink_to(path)
        return link
    return path


def _text(name: str) -> str:
    """A file's name as text, whatever its bytes are."""
    return os.fsencode(name).decode("utf-8", "replace")


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
