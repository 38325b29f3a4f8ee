"""The catalog: the models Banatie knows by name, those installed besides, and where each one is.

Reads `catalog.toml`, manifests and paths. How a model is loaded is for `enhancement` and
`painting`; how it is installed, for `install`.
"""

from __future__ import annotations

import contextlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from banatie.errors import ModelBroken, ModelNotFound
from banatie.models.bundled import model_folder
from banatie.models.ip_adapter import ADAPTER_FILE, check_ip_adapter
from banatie.models.manifest import SETTINGS, FileDigest, Kind, Manifest, read_manifest
from banatie.models.types import (
    Entry,
    HubSource,
    IpAdapter,
    KnownModel,
    LanguageModel,
    Mode,
    PaintingModel,
    RepositoryFiles,
    Size,
    WheelSource,
    kind_of,
)

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
"""Smaller models do better in guided mode, as measured with `scripts/bench enhance`."""


class Catalog:
    """The known models, and the models folder."""

    def __init__(self, models_dir: Path) -> None:
        self.models_dir = models_dir
        text = resources.files("banatie.models").joinpath("catalog.toml").read_text("utf-8")
        entries = tomllib.loads(text)
        self._repositories = {
            name: _repository_files(entry) for name, entry in entries["repositories"].items()
        }
        self.language_models = tuple(self._language(e) for e in entries["language_models"])
        self.painting_models = tuple(self._painting(e) for e in entries["painting_models"])
        self.ip_adapters = tuple(
            IpAdapter(**e, folder=self.models_dir / e["name"], source=source)
            for e in entries["ip_adapters"]
            if (source := self._source(e))
        )

    @property
    def models(self) -> tuple[KnownModel, ...]:
        """The models of the catalog, installed or not."""
        return (*self.language_models, *self.painting_models, *self.ip_adapters)

    def language_model(self, reference: str) -> LanguageModel:
        """The language model of a catalog name, the name of a folder under `models_dir`, or a path.

        Raises ModelNotFound or ModelBroken, with the remedy, when it is not installed.
        """
        for model in self.language_models:
            if model.name == reference:
                _require_file(model.folder, "config.json", _not_installed(model))
                return model
        folder = self._folder(reference)
        manifest = _manifest_of(folder, "language")
        _require_file(
            folder, "config.json", f"{folder} holds no language model: config.json is missing"
        )
        if manifest is None:
            return LanguageModel(folder.name, folder.name, "unknown", _mode(folder), folder)
        mode = manifest.settings.get("mode") or _mode(folder)
        return LanguageModel(folder.name, manifest.title, manifest.licence, mode, folder)

    def painting_model(self, reference: str) -> PaintingModel:
        """The painting model of a catalog name, the name of a folder under `models_dir`, or a path.

        Settings that a folder's manifest leaves out are SDXL's; its sizes are scaled to the side
        the UNet was made for. Raises ModelNotFound or ModelBroken, with the remedy, when the model
        is not installed.
        """
        for model in self.painting_models:
            if model.name == reference:
                _require_file(model.folder, "model_index.json", _not_installed(model))
                return model
        folder = self._folder(reference)
        manifest = _manifest_of(folder, "painting")
        _require_file(
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
                f"the settings of {folder.name}, in its banatie.json, are invalid ({error}); "
                "install the model again"
            ) from error

    def ip_adapter(self, reference: str) -> IpAdapter:
        """The IP-Adapter of a catalog name, the name of a folder under `models_dir`, or a path.

        Raises ModelNotFound or ModelBroken, with the remedy, when it is not installed.
        """
        for adapter in self.ip_adapters:
            if adapter.name == reference:
                _require_file(adapter.folder, ADAPTER_FILE, _not_installed(adapter))
                return adapter
        folder = self._folder(reference)
        manifest = _manifest_of(folder, "ip-adapter")
        message = f"{folder} holds no IP-Adapter: {ADAPTER_FILE} is missing"
        _require_file(folder, ADAPTER_FILE, message)
        if manifest is None:
            return IpAdapter(folder.name, folder.name, "unknown", folder)
        return IpAdapter(folder.name, manifest.title, manifest.licence, folder)

    def choose_ip_adapter(self, setting: str, model: PaintingModel) -> IpAdapter | None:
        """The adapter that `painting.ip_adapter` names; for `auto`, the first that fits the model.

        None if the setting is `off`, or none is there for `auto`. Raises ModelNotFound or
        ModelBroken for a named one that is not installed, damaged or made for another model.
        """
        if setting == "off":
            return None
        width = _read_json(model.folder / "unet" / "config.json").get("cross_attention_dim")
        if setting != "auto":
            adapter = self.ip_adapter(setting)
            shape, _ = check_ip_adapter(adapter.folder)
            if shape.text_width != width:
                raise ModelBroken(
                    f"the IP-Adapter {adapter.name!r} is for models that read embeddings "
                    f"{shape.text_width} wide, but {model.name} reads {width}; set "
                    "painting.ip_adapter to another one"
                )
            return adapter
        for entry in self.installed():
            if entry.kind == "ip-adapter" and not entry.problem:
                # A broken one must not hide the others.
                with contextlib.suppress(ModelBroken, ModelNotFound):
                    shape, _ = check_ip_adapter(entry.folder)
                    if shape.text_width == width:
                        return self.ip_adapter(entry.name)
        return None

    def loras(self) -> dict[str, Path]:
        """The weights of the installed LoRAs, by their names."""
        found = {}
        for entry in self.installed():
            if entry.kind == "lora" and entry.manifest:
                # A broken one must not hide the others.
                with contextlib.suppress(ModelBroken):
                    found[entry.name] = _lora_file(entry.folder, entry.manifest)
        return found

    def lora(self, name: str) -> Path:
        """The weights of an installed LoRA. Raises ModelNotFound or ModelBroken."""
        loras = {entry.name: entry for entry in self.installed() if entry.kind == "lora"}
        # A name from a request is looked up, and never made a path of.
        if name not in loras:
            names = ", ".join(sorted(loras)) or "none; install one with: banatie models import FILE"
            raise ModelNotFound(f"no LoRA called {name!r} is installed; installed are: {names}")
        return _lora_file(loras[name].folder, loras[name].manifest)

    def entries(self) -> tuple[Entry, ...]:
        """The models of the catalog, and those installed in the models folder besides."""
        known = tuple(
            Entry(
                model.name,
                kind_of(model),
                model.title,
                model.licence,
                model.folder,
                model,
                *_try_manifest(model.folder),
            )
            for model in self.models
        )
        names = {entry.name for entry in known}
        return (*known, *(entry for entry in self._others() if entry.name not in names))

    def installed(self) -> tuple[Entry, ...]:
        """The entries that are on this machine."""
        return tuple(entry for entry in self.entries() if entry.installed)

    def entry(self, name: str) -> Entry:
        """The entry of this name, installed or not. Raises ModelNotFound."""
        entries = self.entries()
        for entry in entries:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in entries)
        raise ModelNotFound(f"no model is called {name!r}; known models: {known}")

    def _others(self) -> Iterator[Entry]:
        if not self.models_dir.is_dir():
            return
        for folder in sorted(self.models_dir.iterdir()):
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            manifest, problem = _try_manifest(folder)
            if manifest:
                kind, title, licence = manifest.kind, manifest.title, manifest.licence
                yield Entry(folder.name, kind, title, licence, folder, None, manifest)
            elif problem:
                # Without its manifest, only a pipeline's index tells the kind.
                kind = "painting" if (folder / "model_index.json").is_file() else "language"
                yield Entry(folder.name, kind, folder.name, "unknown", folder, problem=problem)

    def _folder(self, reference: str) -> Path:
        folder = Path(reference).expanduser()
        if folder.is_dir():
            return folder
        if (self.models_dir / reference).is_dir():
            return self.models_dir / reference
        known = ", ".join(model.name for model in self.models)
        raise ModelNotFound(
            f"{reference!r} is neither a folder nor a model of the catalog ({known})"
        )

    def _language(self, entry: dict[str, Any]) -> LanguageModel:
        wheel = entry.pop("wheel", None)
        source = WheelSource(**wheel) if wheel else self._source(entry)
        return LanguageModel(**entry, folder=self.models_dir / entry["name"], source=source)

    def _painting(self, entry: dict[str, Any]) -> PaintingModel:
        sizes = entry.pop("sizes")
        if sizes == "sdxl":
            sizes = SDXL_SIZES
        sizes = {ratio: (width, height) for ratio, (width, height) in sizes.items()}
        source, folder = self._source(entry), model_folder(entry["name"], self.models_dir)
        return PaintingModel(**entry, sizes=sizes, folder=folder, source=source)

    def _source(self, entry: dict[str, Any]) -> HubSource | None:
        names, fused_lora = entry.pop("repositories", ()), entry.pop("fused_lora", "")
        if not names:
            return None
        return HubSource(tuple(self._repositories[name] for name in names), fused_lora)


def require_installed(entry: Entry) -> None:
    """Raises ModelNotFound, with the remedy, when the model is not installed."""
    if not entry.installed:
        source = entry.model.source if entry.model else None
        remedy = f"run: banatie models pull {entry.name}" if source else "import it first"
        raise ModelNotFound(f"the model {entry.name!r} is not installed; {remedy}")


def _repository_files(entry: dict[str, Any]) -> RepositoryFiles:
    digests = {
        name: FileDigest(known["bytes"], known.get("sha256", ""))
        for name, known in entry.pop("digests", {}).items()
    }
    return RepositoryFiles(**entry | {"files": tuple(entry.get("files", ())), "digests": digests})


def _not_installed(model: KnownModel) -> str:
    pull = f"run: banatie models pull {model.name}"
    remedy = pull if model.source else "put its folder under models/"
    return f"the model {model.name!r} is not installed; {remedy}"


def _require_file(folder: Path, file: str, message: str) -> None:
    if not folder.is_dir():
        raise ModelNotFound(message)
    if not (folder / file).is_file():
        raise ModelBroken(message)


def _manifest_of(folder: Path, kind: Kind) -> Manifest | None:
    manifest = read_manifest(folder)
    if manifest and manifest.kind != kind:
        setting = SETTINGS[kind]
        raise ModelBroken(
            f"{folder.name} is a {manifest.kind} model, not a {kind} model; set {setting} to one"
        )
    return manifest


def _try_manifest(folder: Path) -> tuple[Manifest | None, str]:
    """The folder's manifest, or why it cannot be read."""
    try:
        return read_manifest(folder), ""
    except ModelBroken as error:
        return None, str(error)


def _lora_file(folder: Path, manifest: Manifest | None) -> Path:
    weights = [name for name in manifest.files if name.endswith(".safetensors")] if manifest else []
    if len(weights) != 1:
        raise ModelBroken(f"{folder} should hold the weights of one LoRA; install it again")
    return folder / weights[0]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelBroken(f"{path} cannot be read ({error}); copy it again") from error


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
