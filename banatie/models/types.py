"""The types that describe models: their kinds, sizes, sources and settings. Pure data.

How a model is loaded is for `enhancement` and `painting`; how it is installed, for `install`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from banatie.models.manifest import FileDigest, Kind, Manifest

Size = tuple[int, int]
"""Width and height in pixels."""

Mode = Literal["guided", "free"]
"""How a language model is prompted; see `enhancement.enhancer`."""


@dataclass(frozen=True)
class WheelSource:
    """A file inside a wheel on the Python package index, with its size and SHA-256."""

    package: str
    version: str
    member: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class RepositoryFiles:
    """Files of one repository on a Hugging Face hub, at one revision."""

    repository: str
    revision: str
    files: tuple[str, ...] = ()
    """Names or glob patterns; `*` does not match a slash, and a plain name must exist."""
    destinations: Mapping[str, str] = field(default_factory=dict)
    """Paths in the model's folder, of files that do not keep their path in the repository."""
    digests: Mapping[str, FileDigest] = field(default_factory=dict)
    """By names in the repository. With an empty hash only the approximate size is known."""
    gated: bool = False
    """Whether the hub requires that its licence was accepted."""


@dataclass(frozen=True)
class HubSource:
    """What a model's folder is made of, on a Hugging Face hub."""

    repositories: tuple[RepositoryFiles, ...]
    fused_lora: str = ""
    """The path, in the model's folder, of a LoRA that is merged into the UNet's weights."""

    @property
    def bytes(self) -> int:
        """Roughly how much is downloaded."""
        return sum(known.bytes for files in self.repositories for known in files.digests.values())

    @property
    def weight_bytes(self) -> int:
        """Roughly how large the weights are after the installation."""
        return sum(
            known.bytes
            for files in self.repositories
            for name, known in files.digests.items()
            if name.endswith(".safetensors")
            and files.destinations.get(name, name) != self.fused_lora
        )

    @property
    def gated(self) -> bool:
        """Whether a token is needed."""
        return any(files.gated for files in self.repositories)


@dataclass(frozen=True)
class LanguageModel:
    """An instruction-tuned language model in the Hugging Face layout."""

    name: str
    title: str
    licence: str
    mode: Mode
    folder: Path
    source: WheelSource | HubSource | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Of files in the folder, by their names, where they are known."""
    note: str = ""
    """What the licence asks, in one line."""
    parameters: int = 0
    """0 where the catalog does not know it."""


@dataclass(frozen=True)
class PaintingModel:
    """A Stable Diffusion XL pipeline in the diffusers layout, and its recommended settings."""

    name: str
    title: str
    licence: str
    steps: int
    guidance_scale: float
    sizes: Mapping[str, Size]
    """By aspect ratio."""
    folder: Path
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """A diffusers scheduler class under "class", and settings that replace the pipeline's own.
    Empty: the pipeline's own scheduler, unchanged."""
    source: HubSource | None = None
    note: str = ""
    """What the licence asks, in one line."""


@dataclass(frozen=True)
class IpAdapter:
    """An IP-Adapter for SDXL with its CLIP image encoder, by which references are combined."""

    name: str
    title: str
    licence: str
    folder: Path
    source: HubSource | None = None
    note: str = ""
    """What the licence asks, in one line."""


KnownModel = LanguageModel | PaintingModel | IpAdapter
"""A model that the catalog describes."""


def kind_of(model: KnownModel) -> Kind:
    """The kind of a model of the catalog."""
    if isinstance(model, PaintingModel):
        return "painting"
    return "language" if isinstance(model, LanguageModel) else "ip-adapter"


@dataclass(frozen=True)
class Entry:
    """A model with a name: one of the catalog, installed or not, or another installed one."""

    name: str
    kind: Kind
    title: str
    licence: str
    folder: Path
    model: KnownModel | None = None
    """The catalog's description."""
    manifest: Manifest | None = None
    """The folder's own description."""
    problem: str = ""
    """Why the folder cannot be read."""

    @property
    def installed(self) -> bool:
        """Whether the model's folder is on this machine."""
        return self.folder.is_dir()
