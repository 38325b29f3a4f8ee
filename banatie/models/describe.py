"""What is known about a model, as lines for people: `banatie models show`.

Reads manifests and safetensors headers; how a model is loaded or used is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping

from banatie.errors import ModelError
from banatie.models.catalog import Catalog
from banatie.models.disk_space import format_bytes
from banatie.models.manage import size_of
from banatie.models.safetensors_header import parameter_count
from banatie.models.types import (
    Entry,
    HubSource,
    KnownModel,
    LanguageModel,
    PaintingModel,
    WheelSource,
)
from banatie.models.validate import check_language_model, check_pipeline

HALF_PRECISION_BYTES = 2
"""Per parameter."""


def describe(entry: Entry, catalog: Catalog) -> list[tuple[str, str]]:
    """Labels and texts, in reading order."""
    model = entry.model
    lines = [("name", entry.name), ("title", entry.title), ("kind", entry.kind)]
    lines.append(("licence", entry.licence))
    if model and model.note:
        lines.append(("note", model.note))
    lines += _location(entry)
    if entry.installed and not entry.problem:
        try:
            model = _loadable(entry, catalog)
            lines.append(("memory", _memory(entry)))
        except ModelError as error:
            lines.append(("problem", str(error)))
    if isinstance(model, PaintingModel):
        lines += _painting_settings(model)
    if isinstance(model, LanguageModel):
        mode = (
            "guided (chooses among texts of the lexicon, or continues the template's phrases)"
            if model.mode == "guided"
            else "free (writes its own sentence)"
        )
        lines.append(("mode", mode))
    return lines


def _location(entry: Entry) -> list[tuple[str, str]]:
    source = entry.model.source if entry.model else None
    lines = []
    if entry.problem:
        lines.append(("problem", entry.problem))
    if entry.installed:
        size = format_bytes(size_of(entry))
        lines.append(("installed", f"{entry.folder}, {size}"))
        if entry.manifest:
            count = f"{len(entry.manifest.files)} files with their SHA-256"
            lines += [("from", entry.manifest.source), ("manifest", count)]
        return lines
    remedy = f"run: banatie models pull {entry.name}" if source else "copy its folder there"
    lines.append(("installed", f"no; {remedy}"))
    if source:
        lines.append(("download", f"about {format_bytes(source.bytes)}"))
    if isinstance(source, HubSource):
        origins = dict.fromkeys((files.repository, files.revision) for files in source.repositories)
        lines += [("from", f"{repository}@{revision}") for repository, revision in origins]
        lines.append(("memory", f"about {format_bytes(source.weight_bytes)} for the weights alone"))
        if source.gated:
            lines.append(("token", "accept its licence on the hub and set HF_TOKEN first"))
    if isinstance(source, WheelSource):
        lines.append(("from", f"{source.package} {source.version} from the Python package index"))
    return lines


def _loadable(entry: Entry, catalog: Catalog) -> KnownModel | None:
    if entry.kind == "ip-adapter":
        return catalog.ip_adapter(entry.name)
    if entry.kind == "painting":
        return catalog.painting_model(entry.name)
    return catalog.language_model(entry.name) if entry.kind == "language" else None


def _memory(entry: Entry) -> str:
    if entry.kind == "painting":
        files = [file for group in check_pipeline(entry.folder).values() for file in group]
    elif entry.kind == "language":
        files = check_language_model(entry.folder)
    else:
        # An IP-Adapter's image encoder lies in a folder below.
        files = sorted(entry.folder.rglob("*.safetensors"))
    half = parameter_count(files) * HALF_PRECISION_BYTES
    return (
        f"{format_bytes(half)} for the weights in half precision, {format_bytes(2 * half)} in full"
    )


def _painting_settings(model: PaintingModel) -> list[tuple[str, str]]:
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
