"""What is known of a model, in lines for people.

Reads names, manifests and the heads of weights; what a model does is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping

from banatie.errors import ModelError
from banatie.models.catalog import (
    Catalog,
    Entry,
    HubSource,
    LanguageModel,
    PaintingModel,
    WheelSource,
)
from banatie.models.disk_space import readable
from banatie.models.manage import size_of
from banatie.models.validate import check_language_model, check_pipeline, parameter_count

HALF = 2
"""Bytes a number takes in half precision."""


def describe(entry: Entry, catalog: Catalog) -> list[tuple[str, str]]:
    """Labels and texts, in the order to be read."""
    model = entry.model
    lines = [("name", entry.name), ("title", entry.title), ("kind", entry.kind)]
    lines.append(("licence", entry.licence))
    if model and model.note:
        lines.append(("note", model.note))
    lines += _whereabouts(entry)
    if entry.here and not entry.problem:
        try:
            model = _as_loaded(entry, catalog)
            lines.append(("memory", _memory(entry)))
        except ModelError as error:
            lines.append(("problem", str(error)))
    if isinstance(model, PaintingModel):
        lines += _painting(model)
    if isinstance(model, LanguageModel):
        mode = "guided through the template's words" if model.mode == "guided" else "writes freely"
        lines.append(("mode", mode))
    return lines


def _whereabouts(entry: Entry) -> list[tuple[str, str]]:
    source = entry.model.source if entry.model else None
    lines = []
    if entry.problem:
        lines.append(("problem", entry.problem))
    if entry.here:
        size = readable(size_of(entry))
        lines.append(("here", f"{entry.folder}, {size}"))
        if entry.manifest:
            count = f"{len(entry.manifest.files)} files with their SHA-256"
            lines += [("from", entry.manifest.source), ("manifest", count)]
        return lines
    remedy = f"run: banatie models pull {entry.name}" if source else "put its folder there"
    lines.append(("here", f"no; {remedy}"))
    if source:
        lines.append(("to fetch", f"about {readable(source.bytes)}"))
    if isinstance(source, HubSource):
        origins = dict.fromkeys((part.repository, part.revision) for part in source.parts)
        lines += [("from", f"{repository}@{revision}") for repository, revision in origins]
        lines.append(("memory", f"about {readable(source.weight_bytes)} for the weights alone"))
        if source.gated:
            lines.append(("token", "accept its licence on the hub and set HF_TOKEN first"))
    if isinstance(source, WheelSource):
        lines.append(("from", f"{source.package} {source.version} of the Python package index"))
    return lines


def _as_loaded(entry: Entry, catalog: Catalog) -> PaintingModel | LanguageModel | None:
    if entry.kind == "painting":
        return catalog.painting_model(entry.name)
    return catalog.language_model(entry.name) if entry.kind == "language" else None


def _memory(entry: Entry) -> str:
    if entry.kind == "painting":
        files = [file for parts in check_pipeline(entry.folder).values() for file in parts]
    elif entry.kind == "language":
        files = check_language_model(entry.folder)
    else:
        files = sorted(entry.folder.glob("*.safetensors"))
    half = parameter_count(files) * HALF
    return f"{readable(half)} for the weights in half precision, {readable(2 * half)} in full"


def _painting(model: PaintingModel) -> list[tuple[str, str]]:
    guidance = f"{model.guidance_scale:g}" if model.guidance_scale > 1 else "none"
    sizes = ", ".join(f"{ratio} {w}×{h}" for ratio, (w, h) in model.sizes.items())
    return [
        ("steps", str(model.steps)),
        ("guidance", guidance),
        ("sampler", _sampler(model.scheduler)),
        ("sizes", sizes),
    ]


def _sampler(scheduler: Mapping[str, object]) -> str:
    if not scheduler:
        return "the pipeline's own"
    rest = [f"{name} {value}" for name, value in scheduler.items() if name != "class"]
    return ", ".join([str(scheduler.get("class", "the pipeline's own")), *rest])
