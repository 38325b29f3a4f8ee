"""Make a model's folder from the files of a hub: an entry of the catalog, or any fit repository.

Every file counts only once its hash is right: the hub's, and the catalog's where it knows one. What
another model's folder or the hub library's cache has is linked to instead of fetched. The folder
appears under its name only when it is whole, with its manifest; what an interruption leaves lies
beside it, hidden, until the next attempt. How the hub is asked is for `hub`; how a model is used is
not known here.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from huggingface_hub import constants

from banatie.errors import ModelBroken, ModelError, ModelNotFound
from banatie.models.catalog import Entry, HubSource, LanguageModel, Part
from banatie.models.convert.lora import fuse
from banatie.models.disk_space import readable, require_disk_space
from banatie.models.huggingface import Hub, Listing, RemoteFile
from banatie.models.manifest import (
    CODE,
    FileDigest,
    Kind,
    Manifest,
    is_inside,
    is_name,
    read_manifest,
    write_manifest,
)
from banatie.models.validate import (
    PIPELINE,
    PIPELINE_MODELS,
    PIPELINE_REST,
    check_language_model,
    check_pipeline,
    check_weights,
    is_half,
    is_weights,
    sha256_of,
)

LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
LANGUAGE_FILES = (
    *("config.json", "generation_config*", "special_tokens_map*", "tokenizer*", "vocab*"),
    *("merges*", "model*.safetensors.index*.json", "*.jinja"),
)

Progress = Callable[[str, int, int], None]
"""Told the file that is being fetched, and the bytes that are here of all."""


@dataclass(frozen=True)
class PlannedFile:
    """A file that is to lie at `place` in the model's folder."""

    file: RemoteFile
    place: str
    sha256: str
    """The hub's or the catalog's, which agree; empty where nobody knows it."""

    @property
    def key(self) -> str:
        """A name by which a later attempt finds what has come of just this content."""
        content = self.sha256 or [self.file.git_blob, self.file.commit, self.file.name]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def cached(self) -> str:
        """Where huggingface_hub keeps it, if other programs have fetched it."""
        return f"models--{self.file.repository.replace('/', '--')}/blobs/{self.sha256}"


@dataclass(frozen=True)
class DownloadPlan:
    """A model's folder that is to be made from the hub."""

    kind: Kind
    name: str
    title: str
    licence: str
    folder: Path
    parts: tuple[Part, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    fused: str = ""
    """The place of a LoRA that becomes part of the UNet's weights."""


def plan_entry(entry: Entry) -> DownloadPlan:
    """What is to be fetched for a model of the catalog. Raises ModelNotFound without a source."""
    model = entry.model
    if model is None or not isinstance(model.source, HubSource):
        raise ModelNotFound(f"the catalog does not say where {entry.name!r} comes from")
    if isinstance(model, LanguageModel):
        settings: dict[str, Any] = {"mode": model.mode}
    else:
        settings = {
            "steps": model.steps,
            "guidance_scale": model.guidance_scale,
            "scheduler": dict(model.scheduler),
            "sizes": {ratio: list(size) for ratio, size in model.sizes.items()},
        }
    source = model.source
    return DownloadPlan(
        entry.kind,
        entry.name,
        entry.title,
        entry.licence,
        entry.folder,
        source.parts,
        settings,
        source.fused,
    )


def plan_repository(
    hub: Hub, repository: str, revision: str, models_dir: Path, name: str | None = None
) -> DownloadPlan:
    """What is to be fetched of a repository that the catalog does not know.

    It must hold a Stable Diffusion XL pipeline in the diffusers layout or a language model in
    transformers', with safetensors weights. Raises ModelBroken, saying what it is instead.
    """
    listing = hub.look(repository, revision)
    files = listing.files
    if "model_index.json" in files:
        found = hub.read_json(files["model_index.json"]).get("_class_name")
        if found != PIPELINE:
            raise ModelBroken(f"{repository} is a {found}, but Banatie paints with a {PIPELINE}")
        kind, planned = "painting", _pipeline_files(repository, files)
    elif "config.json" in files:
        found = (hub.read_json(files["config.json"]).get("architectures") or ["model"])[0]
        if not str(found).endswith("ForCausalLM"):
            raise ModelBroken(f"{repository} is a {found}, not a language model that writes")
        weights = [name for name in files if is_weights(name)]
        kind, planned = "language", [*LANGUAGE_FILES, *_safetensors(repository, weights)]
    else:
        single = sorted(n for n in files if n.endswith(".safetensors") and "/" not in n)
        advice = (
            f"; download {single[0]} and bring it in: banatie models import {single[0]}"
            if single
            else ""
        )
        raise ModelBroken(f"{repository} holds neither a pipeline nor a language model{advice}")
    name = name or repository.rpartition("/")[2].lower()
    if not is_name(name):
        raise ModelError(f"{name!r} cannot be a model's name: letters, digits, '.', '_' and '-'")
    part = Part(repository, listing.commit, (*planned, *LICENCES))
    return DownloadPlan(kind, name, repository, listing.licence, models_dir / name, (part,))


def download(
    plan: DownloadPlan, hub: Hub, say: Callable[[str], None], progress: Progress = lambda *_: None
) -> Path:
    """Make the folder that was ordered; return it.

    `say` is told each step in a line. A folder that is there already is left as it is. Raises
    ModelError with the remedy, and then there is nothing under the model's name.
    """
    folder = plan.folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{plan.name}.lock", timeout=0):
            if folder.exists():
                say(f"{plan.name} is there already: {folder}")
                return folder
            _download(plan, hub, say, progress)
    except Timeout:
        raise ModelError(f"another process is bringing {plan.name}; wait for it") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(
                f"the disk of {folder.parent} is full; make room and run the command again (it "
                "goes on where it stopped), or set storage.models_dir to a folder elsewhere"
            ) from error
        raise ModelError(f"{plan.name} cannot be written to {folder}: {error}") from error
    except KeyboardInterrupt:
        say("Interrupted; the same command goes on from here")
        raise
    say(f"{plan.name} is ready: {folder}")
    return folder


def _download(plan: DownloadPlan, hub: Hub, say: Callable[[str], None], progress: Progress) -> None:
    repositories = dict.fromkeys(part.repository for part in plan.parts)
    say(f"Asking {hub.endpoint} for {', '.join(repositories)}")
    files = _planned_files(plan.parts, hub)
    unfinished = plan.folder.parent / f".{plan.name}.unfinished"
    whole, partial = unfinished / "whole", unfinished / "partial"
    whole.mkdir(parents=True, exist_ok=True)
    partial.mkdir(exist_ok=True)
    _link_what_is_here(files, whole, plan.folder.parent)
    total = sum(planned.file.bytes for planned in files)
    done = sum(_bytes_here(planned, whole, partial) for planned in files)
    # Fused weights are written beside the plain ones.
    again = max(planned.file.bytes for planned in files) if plan.fused else 0
    require_disk_space(plan.name, total - done + again, plan.folder.parent)
    here = f", of which {readable(done)} are here already" if done > total / 100 else ""
    say(f"{len(files)} files, {readable(total)}{here}")
    facts = {}
    for planned in files:
        progress(planned.place, done, total)

        def advance(came: int, place: str = planned.place) -> None:
            nonlocal done
            done += came
            progress(place, done, total)

        facts[planned.place] = _complete(planned, hub, whole, partial, advance)
    _drop_the_rest(whole, facts)
    if plan.fused:
        say("Folding the LoRA into the UNet's weights")
        facts = _fused(whole, plan.fused, unfinished, facts)
    say("Checking the whole")
    (check_pipeline if plan.kind == "painting" else check_language_model)(whole)
    commits = dict.fromkeys((planned.file.repository, planned.file.commit) for planned in files)
    source = ", ".join(f"{repository}@{commit}" for repository, commit in commits)
    write_manifest(
        whole,
        Manifest(plan.kind, plan.name, plan.title, plan.licence, source, plan.settings, facts),
    )
    whole.rename(plan.folder)
    shutil.rmtree(unfinished)


def _planned_files(parts: Sequence[Part], hub: Hub) -> list[PlannedFile]:
    """Every file of a model, the small ones first."""
    found: dict[str, PlannedFile] = {}
    for part in parts:
        listing = hub.look(part.repository, part.revision)
        for name, place in _places(part, listing):
            file, known = listing.files[name], part.facts.get(name)
            if not is_inside(place):
                raise ModelBroken(
                    f"{part.repository} holds a file called {name!r}; nothing was fetched"
                )
            sha256 = known.sha256 if known and known.sha256 else file.sha256
            if file.sha256 not in ("", sha256):
                raise ModelBroken(
                    f"{hub.endpoint} has another {name} of {part.repository} than the catalog "
                    "knows (its SHA-256 differs); nothing was fetched: do not trust that hub"
                )
            found[place] = PlannedFile(file, place, sha256)
    return sorted(found.values(), key=lambda planned: (planned.file.bytes, planned.place))


def _places(part: Part, listing: Listing) -> Iterator[tuple[str, str]]:
    """The names of a part's files in the repository, and their places in the folder."""
    missing = f"{part.repository} has no {{}} at {part.revision}"
    for pattern in part.files:
        matching = [
            name
            for name in listing.files
            if name.count("/") == pattern.count("/")
            and fnmatch.fnmatchcase(name, pattern)
            and not name.lower().endswith(CODE)
        ]
        if not matching and "*" not in pattern:
            raise ModelNotFound(missing.format(pattern))
        yield from ((name, name) for name in matching)
    for name, place in part.places.items():
        if name not in listing.files:
            raise ModelNotFound(missing.format(name))
        yield name, place


def _complete(
    planned: PlannedFile, hub: Hub, whole: Path, partial: Path, advance: Callable[[int], None]
) -> FileDigest:
    """Have the file in its place, with the right hash; its facts."""
    file, place = planned.file, whole / planned.place
    if place.exists():
        if sha256 := _proven(planned, place):
            return FileDigest(file.bytes, sha256)
        # Linked to a file that has changed since, or left by an attempt at another revision.
        advance(-place.stat().st_size)
        place.unlink()
    part = partial / planned.key
    hub.fetch(file, part, advance)
    sha256 = _proven(planned, part)
    if not sha256:
        part.unlink()
        raise ModelBroken(
            f"{file.name} of {file.repository} is not what {hub.endpoint} says it is (its hash "
            "differs), and was thrown away; run the command again, and if that does not help, "
            "take another HF_ENDPOINT"
        )
    with part.open("rb") as opened:
        # On the disk before it counts as here.
        os.fsync(opened.fileno())
    place.parent.mkdir(parents=True, exist_ok=True)
    part.rename(place)
    return FileDigest(file.bytes, sha256)


def _drop_the_rest(whole: Path, facts: Mapping[str, FileDigest]) -> None:
    """Delete what an attempt at another revision has left."""
    for path in whole.rglob("*"):
        if path.is_file() and path.relative_to(whole).as_posix() not in facts:
            path.unlink()


def _fused(
    whole: Path, place: str, unfinished: Path, facts: Mapping[str, FileDigest]
) -> dict[str, FileDigest]:
    """Make the LoRA at `place` part of the UNet's weights; the facts of what is there then."""
    [weights] = check_weights(whole / "unet")
    new = unfinished / "fused.safetensors"
    fuse(whole / place, weights, new)
    # In the plain one's place, which another model's folder may go on using.
    new.replace(weights)
    (whole / place).unlink()
    name = weights.relative_to(whole).as_posix()
    changed = FileDigest(weights.stat().st_size, sha256_of(weights))
    return {n: known for n, known in facts.items() if n != place} | {name: changed}


def _proven(planned: PlannedFile, path: Path) -> str:
    """The SHA-256 of a file that is the right one; empty for one that is not."""
    if path.stat().st_size != planned.file.bytes:
        return ""
    sha256 = sha256_of(path)
    if planned.sha256 and planned.sha256 != sha256:
        return ""
    if planned.file.git_blob:
        # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        content = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        return sha256 if blob.hexdigest() == planned.file.git_blob else ""
    return sha256


def _link_what_is_here(files: Sequence[PlannedFile], whole: Path, models_dir: Path) -> None:
    """Link to what other models' folders have, by their manifests, and the hub library's cache."""
    elsewhere = {}
    for folder in models_dir.iterdir():
        with contextlib.suppress(ModelBroken):
            if not folder.name.startswith(".") and (manifest := read_manifest(folder)):
                elsewhere |= {facts.sha256: folder / n for n, facts in manifest.files.items()}
    for planned in files:
        place = whole / planned.place
        if not planned.sha256 or place.exists():
            continue
        cached = Path(constants.HF_HUB_CACHE, planned.cached)
        source = elsewhere.get(planned.sha256, cached)
        if source.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            # On another disk, or one that knows no hard links, it is fetched again.
            with contextlib.suppress(OSError):
                os.link(source, place)


def _bytes_here(planned: PlannedFile, whole: Path, partial: Path) -> int:
    for path in (whole / planned.place, partial / planned.key):
        if path.exists():
            return path.stat().st_size
    return 0


def _pipeline_files(repository: str, names: Mapping[str, RemoteFile]) -> list[str]:
    files = ["model_index.json"]
    for folder in (*PIPELINE_MODELS, *PIPELINE_REST):
        files += [f"{folder}/*.json", f"{folder}/*.txt"]
        if folder in PIPELINE_MODELS:
            inside = [name for name in names if name.startswith(f"{folder}/")]
            weights = [name for name in inside if is_weights(name.removeprefix(f"{folder}/"))]
            files += _safetensors(f"{repository}/{folder}", weights)
    return files


def _safetensors(where: str, weights: list[str]) -> list[str]:
    """The files in half precision, or the others where there are none of these."""
    if not weights:
        raise ModelBroken(
            f"{where} holds no safetensors weights, and pickled ones are never loaded, because "
            "they can carry code; look for a repository that has them"
        )
    return [name for name in weights if is_half(Path(name))] or weights
