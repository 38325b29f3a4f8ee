"""Which models there are: the catalog's entries, and where a configured name lies on disk.

Pure data and paths: this module never imports torch, so the web process may read it too. How a
model is loaded is for `enhancer` and `painter`; how it comes to this machine, for `pull`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from banatie.errors import ModelBroken, ModelNotFound
from banatie.inference.embedded import folder_of
from banatie.inference.manifest import Manifest, read_manifest

Size = tuple[int, int]
"""Width and height in pixels."""

Way = Literal["led", "free"]
"""How a language model is asked; see `enhancer`."""

SDXL_SIZES: Mapping[str, Size] = {
    "1:1": (1024, 1024),
    "16:9": (1344, 768),
    "9:16": (768, 1344),
    "3:2": (1216, 832),
    "21:9": (1536, 640),
}
"""The sizes SDXL was trained on that come closest to each ratio (arXiv:2307.01952, app. I)."""

LED_PARAMETER_LIMIT = 1_000_000_000
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
class LanguageModel:
    """An instruction-tuned language model in the Hugging Face layout, ready to be loaded."""

    name: str
    title: str
    licence: str
    way: Way
    folder: Path
    source: WheelSource | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Of files in the folder, by their names, where it is known."""


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


class Catalog:
    """The known models and the folder that holds those which are here."""

    def __init__(self, models_dir: Path) -> None:
        self.models_dir = models_dir
        text = resources.files("banatie.inference").joinpath("catalog.toml").read_text("utf-8")
        entries = tomllib.loads(text)
        self.language_models = tuple(self._language(e) for e in entries["language_models"])
        self.painting_models = tuple(self._painting(e) for e in entries["painting_models"])

    def language_model(self, reference: str) -> LanguageModel:
        """The language model of a catalog name or a folder.

        Raises ModelNotFound or ModelBroken, with the remedy, when it is not on this machine.
        """
        for model in self.language_models:
            if model.name == reference:
                _expect(model.folder, "config.json", _absent(model.name, model.source is not None))
                return model
        folder = self._folder(reference)
        _expect(folder, "config.json", f"{folder} holds no language model: config.json is missing")
        return LanguageModel(folder.name, folder.name, "unknown", _way(folder), folder)

    def pullable(self, name: str) -> LanguageModel:
        """The catalog's language model of this name, here or not. Raises ModelNotFound."""
        for model in self.language_models:
            if model.name == name:
                return model
        known = ", ".join(model.name for model in self.language_models)
        raise ModelNotFound(f"no model called {name!r} can be pulled; those that can: {known}")

    def painting_model(self, reference: str) -> PaintingModel:
        """The painting model of a catalog name or a folder.

        A folder's sizes follow from its UNet: SDXL's, scaled to the side the UNet was made for.
        Raises ModelNotFound or ModelBroken, with the remedy, when it is not on this machine.
        """
        for model in self.painting_models:
            if model.name == reference:
                _expect(model.folder, "model_index.json", _absent(model.name, False))
                return model
        folder = self._folder(reference)
        _expect(
            folder,
            "model_index.json",
            f"{folder} is not a pipeline in the diffusers layout: model_index.json is missing",
        )
        sizes = _scaled_sizes(folder)
        return PaintingModel(folder.name, folder.name, "unknown", 30, 5.0, sizes, folder)

    def loras(self) -> dict[str, Path]:
        """The weights of the LoRAs that are here, by their names."""
        if not self.models_dir.is_dir():
            return {}
        return {
            folder.name: folder / name
            for folder in sorted(self.models_dir.iterdir())
            if (manifest := _manifest(folder)) and manifest.kind == "lora"
            for name in manifest.files
            if name.endswith(".safetensors")
        }

    def lora(self, name: str) -> Path:
        """The weights of a LoRA that is here. Raises ModelNotFound."""
        # A name from a request: it must not lead out of the folder.
        known = self.loras()
        if name not in known:
            names = ", ".join(sorted(known)) or "none; bring one with: banatie models import FILE"
            raise ModelNotFound(f"there is no LoRA called {name!r} here; those that are: {names}")
        return known[name]

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
        source = dict(entry.pop("source"))
        source.pop("kind")
        folder = self.models_dir / entry["name"]
        return LanguageModel(**entry, folder=folder, source=WheelSource(**source))

    def _painting(self, entry: dict) -> PaintingModel:
        sizes = {ratio: (width, height) for ratio, (width, height) in entry.pop("sizes").items()}
        folder = folder_of(entry["name"], self.models_dir)
        return PaintingModel(**entry, sizes=sizes, folder=folder)


def _manifest(folder: Path) -> Manifest | None:
    """What a finished model's folder says of itself; None also where that cannot be read."""
    if folder.name.startswith(".") or not folder.is_dir():
        return None
    try:
        return read_manifest(folder)
    except ModelBroken:
        return None


def _absent(name: str, pullable: bool) -> str:
    remedy = f"run: banatie models pull {name}" if pullable else "put its folder under models/"
    return f"the model {name!r} is not on this machine; {remedy}"


def _expect(folder: Path, file: str, message: str) -> None:
    if not folder.is_dir():
        raise ModelNotFound(message)
    if not (folder / file).is_file():
        raise ModelBroken(message)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelBroken(f"{path} cannot be read: {error}") from error


def _way(folder: Path) -> Way:
    config = _read_json(folder / "config.json")
    hidden, layers = config.get("hidden_size", 0), config.get("num_hidden_layers", 0)
    # Twelve hidden² weights a layer, the usual count for a transformer block (arXiv:2001.08361).
    return "led" if 12 * layers * hidden**2 < LED_PARAMETER_LIMIT else "free"


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
