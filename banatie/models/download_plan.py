"""What a download consists of: for a model of the catalog, or for any suitable hub repository.

Chooses the files of a repository and recognises what it holds. The download itself is for
`download`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from banatie.errors import ModelBroken, ModelNotFound
from banatie.models.huggingface import Hub, RemoteFile
from banatie.models.install import require_installable
from banatie.models.manifest import Kind
from banatie.models.types import (
    Entry,
    HubSource,
    LanguageModel,
    PaintingModel,
    RepositoryFiles,
)
from banatie.models.validate import (
    PIPELINE_CLASS,
    PIPELINE_CLASSES,
    PIPELINE_CONFIGS,
    PIPELINE_MODELS,
    is_half_precision,
    is_weights,
)

LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
LANGUAGE_MODEL_FILES = (
    *("config.json", "generation_config*", "special_tokens_map*", "tokenizer*", "vocab*"),
    *("merges*", "model*.safetensors.index*.json", "*.jinja"),
)


@dataclass(frozen=True)
class DownloadPlan:
    """A model that is to be downloaded from the hub."""

    kind: Kind
    name: str
    title: str
    licence: str
    models_dir: Path
    repositories: tuple[RepositoryFiles, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    fused_lora: str = ""
    """The path, in the model's folder, of a LoRA that is merged into the UNet's weights."""

    @property
    def folder(self) -> Path:
        """The model's folder."""
        return self.models_dir / self.name


def plan_entry(entry: Entry) -> DownloadPlan:
    """The download of a model of the catalog. Raises ModelNotFound when it has no source."""
    model = entry.model
    if model is None or not isinstance(model.source, HubSource):
        raise ModelNotFound(f"the catalog does not say where {entry.name!r} comes from")
    settings: dict[str, Any] = {}
    if isinstance(model, LanguageModel):
        settings = {"mode": model.mode}
    elif isinstance(model, PaintingModel):
        settings = {
            "steps": model.steps,
            "guidance_scale": model.guidance_scale,
            "scheduler": dict(model.scheduler),
            "sizes": {ratio: list(size) for ratio, size in model.sizes.items()},
        }
    return DownloadPlan(
        kind=entry.kind,
        name=entry.name,
        title=entry.title,
        licence=entry.licence,
        models_dir=entry.folder.parent,
        repositories=model.source.repositories,
        settings=settings,
        fused_lora=model.source.fused_lora,
    )


def plan_repository(
    hub: Hub, repository: str, revision: str, models_dir: Path, name: str | None = None
) -> DownloadPlan:
    """The download of a repository that is not in the catalog.

    It must hold a Stable Diffusion XL pipeline in the diffusers layout or a language model in
    transformers', with safetensors weights; a model without a `name` gets the repository's.
    Raises ModelBroken, saying what the repository holds instead.
    """
    listing = hub.listing(repository, revision)
    files = listing.files
    kind: Kind
    if "model_index.json" in files:
        found = hub.read_json(files["model_index.json"]).get("_class_name")
        if found not in PIPELINE_CLASSES:
            raise ModelBroken(
                f"{repository} is a {found}, but Banatie paints with a {PIPELINE_CLASS}"
            )
        kind, chosen = "painting", _pipeline_files(repository, files)
    elif "config.json" in files:
        found = (hub.read_json(files["config.json"]).get("architectures") or ["model"])[0]
        if not str(found).endswith("ForCausalLM"):
            raise ModelBroken(f"{repository} is a {found}, not a language model that writes text")
        weights = [file for file in files if is_weights(file)]
        kind, chosen = "language", [*LANGUAGE_MODEL_FILES, *_safetensors(repository, weights)]
    else:
        single = sorted(n for n in files if n.endswith(".safetensors") and "/" not in n)
        advice = (
            f"; download {single[0]} and run: banatie models import {single[0]}" if single else ""
        )
        raise ModelBroken(f"{repository} holds neither a pipeline nor a language model{advice}")
    name = name or repository.rpartition("/")[2].lower()
    require_installable(name)
    chosen_files = RepositoryFiles(repository, listing.commit, (*chosen, *LICENCE_FILES))
    return DownloadPlan(kind, name, repository, listing.licence, models_dir, (chosen_files,))


def _pipeline_files(repository: str, files: Mapping[str, RemoteFile]) -> list[str]:
    chosen = ["model_index.json"]
    for folder in (*PIPELINE_MODELS, *PIPELINE_CONFIGS):
        chosen += [f"{folder}/*.json", f"{folder}/*.txt"]
        if folder in PIPELINE_MODELS:
            inside = [name for name in files if name.startswith(f"{folder}/")]
            weights = [name for name in inside if is_weights(name.removeprefix(f"{folder}/"))]
            chosen += _safetensors(f"{repository}/{folder}", weights)
    return chosen


def _safetensors(where: str, weights: list[str]) -> list[str]:
    """The files in half precision, or all when there are none of these."""
    if not weights:
        raise ModelBroken(
            f"{where} holds no safetensors weights, and pickles are never loaded, because they can "
            "carry code; use a repository with safetensors files"
        )
    return [name for name in weights if is_half_precision(name)] or weights
