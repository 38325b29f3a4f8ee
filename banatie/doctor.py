"""`banatie doctor`: looks at everything a picture takes, and says of each what is the matter.

It only looks: nothing is started, written, locked or migrated, so it may run beside a server. What
it finds wrong, it leaves to whoever reads what to do about it.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import shutil
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from banatie.config import Config
from banatie.devices.memory_plan import PlacementPreferences
from banatie.errors import BanatieError, ConfigError
from banatie.models.catalog import Catalog
from banatie.models.disk_space import format_bytes
from banatie.models.manifest import sha256_of
from banatie.models.safetensors_header import parameter_count
from banatie.models.types import LanguageModel, PaintingModel
from banatie.models.validate import check_language_model, check_pipeline
from banatie.offline import stay_offline
from banatie.serve import find_address
from banatie.store.database import Database
from banatie.store.workers import Workers, WorkerState, state_of

if TYPE_CHECKING:
    from banatie.devices.runtime import Runtime

DISK_BYTES_NEEDED = 100_000_000
"""Less is as good as none: a picture and the database's log take some megabytes."""
DISK_BYTES_WANTED = 2_000_000_000
ANSWER_SECONDS = 5.0
LARGE_PIPELINE = 1_000_000_000
"""Numbers; from here on a processor takes minutes for a picture. SDXL has 3.5 billion."""


@dataclass(frozen=True)
class Finding:
    """What one check has found."""

    check: str
    state: Literal["ok", "warn", "FAIL"]
    found: str
    remedy: str = ""
    """What to do, where there is something to be done."""


def examine(config: Config, now: int) -> Iterator[Finding]:
    """Check one thing after the other, the quick ones first."""
    # Before any of the libraries is imported.
    stay_offline()
    data = config.storage.data
    yield _folder(data)
    yield _disk(data)
    database, workers = _database(data / "banatie.db", now)
    yield database
    yield _worker(workers)
    yield _port(config)
    yield _address(config)
    catalog = Catalog(config.storage.models)
    numbers = {}
    for kind, look in (("painting model", _painting_model), ("language model", _language_model)):
        finding, numbers[kind] = look(kind, catalog, config)
        yield finding
    yield from _devices(config, catalog, workers, numbers["painting model"])
    yield _offline()


def _folder(data: Path) -> Finding:
    check = "data folder"
    there = next(folder for folder in (data.absolute(), *data.absolute().parents) if _is(folder))
    if not there.is_dir():
        remedy = "set storage.data_dir to a folder"
        return Finding(check, "FAIL", f"{there} is not a folder", remedy)
    if not os.access(there, os.W_OK | os.X_OK):
        remedy = "let the user who runs the server write there, or set storage.data_dir"
        return Finding(check, "FAIL", f"{there} cannot be written by this user", remedy)
    if there != data.absolute():
        return Finding(check, "ok", f"{data} is not there yet; `banatie serve` makes it")
    return Finding(check, "ok", f"{data} can be written")


def _disk(data: Path) -> Finding:
    there = next(folder for folder in (data.absolute(), *data.absolute().parents) if _is(folder))
    free = shutil.disk_usage(there).free
    found = f"{format_bytes(free)} free for {data}"
    remedy = "make room, or set storage.data_dir to a folder on another disk"
    if free < DISK_BYTES_NEEDED:
        return Finding("disk", "FAIL", found, remedy)
    if free < DISK_BYTES_WANTED:
        return Finding("disk", "warn", found, remedy)
    return Finding("disk", "ok", found)


def _is(path: Path) -> bool:
    # Path.exists raises where a file stands in a folder's place.
    return os.path.lexists(path)


def _database(path: Path, now: int) -> tuple[Finding, list[WorkerState]]:
    """What is said of the database, and the workers that are at work on it."""
    if not path.exists():
        found = "there is none yet; `banatie serve` makes it"
        return Finding("database", "ok", found), []
    log = path.with_name(path.name + "-wal")
    at_rest = not log.exists()
    database = Database(path, read_only=True)
    try:
        database.check(quick=True)
        pending = database.pending()
        workers = Workers(database).present(now)
    except BanatieError as error:
        if at_rest and log.exists():
            # A server has just begun to write, and what was read was of two minds.
            return _database(path, now)
        remedy = "stop the server and bring back a backup: banatie restore FILE"
        return Finding("database", "FAIL", str(error), remedy), []
    finally:
        database.close()
    size = format_bytes(path.stat().st_size)
    if pending:
        remedy = "run: banatie migrate (`banatie serve` does it by itself)"
        found = f"whole, {size}; not up to date: {', '.join(pending)}"
        return Finding("database", "warn", found, remedy), workers
    return Finding("database", "ok", f"whole, {size}, up to date"), workers


def _worker(workers: list[WorkerState]) -> Finding:
    if not workers:
        return Finding("worker", "ok", "none is running; `banatie serve` starts one")
    found = "; ".join(_said_by(worker) for worker in workers)
    if all(worker.state != "broken" for worker in workers):
        return Finding("worker", "ok", found)
    remedy = "see the models below and the worker's log"
    state = "FAIL" if state_of(workers) == "broken" else "warn"
    return Finding("worker", state, found, remedy)


def _said_by(worker: WorkerState) -> str:
    if worker.state == "broken":
        return worker.reason or "it is broken"
    if worker.state == "starting":
        return f"is loading its models (process {worker.pid})"
    return f"ready on {worker.device} (process {worker.pid})"


def _port(config: Config) -> Finding:
    port = config.server.port
    try:
        find_address(config)
    except ConfigError as error:
        if (status := _health(config)) is None:
            return Finding("port", "FAIL", str(error), "end what has it, or set server.port")
        found = f"a Banatie server answers on {port}"
        if status == "ok":
            return Finding("port", "ok", found)
        if status == "starting":
            return Finding("port", "ok", f"{found} and is starting")
        remedy = f"see the other lines, and ask http://127.0.0.1:{port}/health for the reason"
        return Finding("port", "FAIL", f"{found} and cannot make pictures", remedy)
    return Finding("port", "ok", f"{port} is free; no server is running")


def _health(config: Config) -> str | None:
    """What the Banatie server on the port says of itself; None when there is no such server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.server.host, config.server.host)
    # Without the proxies of the environment, which this does not look at.
    connection = http.client.HTTPConnection(host, config.server.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/health")
        answer = json.loads(connection.getresponse().read(100_000))
        return str(answer["data"]["status"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def _address(config: Config) -> Finding:
    host = config.server.host
    try:
        is_local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = False
    if is_local:
        return Finding("address", "ok", f"{host}: reached from this machine only")
    found = f"{host}: others can reach the server, and only its keys keep them out"
    remedy = "put a proxy with TLS in front, or set server.host to 127.0.0.1"
    return Finding("address", "warn", found, remedy)


def _painting_model(check: str, catalog: Catalog, config: Config) -> tuple[Finding, int]:
    """What is said of the model, and how many numbers are to be loaded."""
    try:
        model = catalog.painting_model(config.painting.model)
        files = [file for parts in check_pipeline(model.folder).values() for file in parts]
        return _whole(check, model, files, "no hashes known")
    except BanatieError as error:
        return Finding(check, "FAIL", str(error), "see docs/models.md"), 0


def _language_model(check: str, catalog: Catalog, config: Config) -> tuple[Finding, int]:
    try:
        model = catalog.language_model(config.enhancement.model)
    except BanatieError as error:
        return Finding(check, "FAIL", str(error), "see docs/models.md"), 0
    remedy = f"run: banatie models pull {model.name}" if model.source else "put it there anew"
    try:
        files = check_language_model(model.folder)
        settings = json.loads((model.folder / "config.json").read_text("utf-8"))
        # The catalog knows the plain model only.
        known = {} if "merged_adapter" in settings else model.sha256
        for name, expected in known.items():
            if sha256_of(model.folder / name) != expected:
                found = f"{model.folder / name} is not what the catalog knows (its SHA-256 differs)"
                return Finding(check, "FAIL", found, f"remove the folder and {remedy}"), 0
        return _whole(check, model, files, "hashes right" if known else "no hashes known")
    except BanatieError as error:
        return Finding(check, "FAIL", str(error), f"remove the folder and {remedy}"), 0


def _whole(
    check: str, model: PaintingModel | LanguageModel, files: list[Path], hashes: str
) -> tuple[Finding, int]:
    size = format_bytes(sum(file.stat().st_size for file in files))
    found = f"{model.name}: {len(files)} weight files whole, {size}, {hashes}"
    return Finding(check, "ok", found), parameter_count(files)


def _devices(
    config: Config, catalog: Catalog, workers: Sequence[WorkerState], numbers: int
) -> Iterator[Finding]:
    """What computes the painting model's `numbers`, and where the models will lie."""
    try:
        from banatie.devices.runtime import present_devices
    except (ImportError, OSError) as error:
        remedy = "run scripts/set-up again, or install the torch that fits this machine"
        yield Finding("device", "FAIL", f"torch cannot be loaded: {error}", remedy)
        return
    devices = config.painting.devices
    if devices == ("auto",):
        devices = present_devices()
    for number, device in enumerate(dict.fromkeys(devices)):
        try:
            finding, runtime = _device(device, config, numbers)
        except ConfigError as error:
            remedy = 'set painting.devices to ["auto"], or install the torch that fits this machine'
            yield Finding("device", "FAIL", str(error), remedy)
            continue
        yield finding
        running = [each for each in workers if each.device == device and each.plan]
        if running:
            yield Finding("memory", "ok", "; ".join(_laid_out(each) for each in running))
        else:
            # The language model runs in one of the workers, most likely in the first.
            yield from _memory(config, catalog, runtime, devices.count(device), number == 0)


def _device(device: str, config: Config, numbers: int) -> tuple[Finding, Runtime]:
    import torch

    from banatie.devices.runtime import choose_runtime

    runtime = choose_runtime(device, config.painting.threads)
    name = f" ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else ""
    formats = f"paints in {_format(runtime.dtype)}, writes in {_format(runtime.language_dtype)}"
    found = f"{device}{name}: {formats}"
    if device == "cpu" and numbers >= LARGE_PIPELINE:
        remedy = "set painting.model to a smaller one, or use a machine with a GPU"
        return Finding("device", "warn", f"{found}; minutes for a picture", remedy), runtime
    return Finding("device", "ok", found), runtime


def _laid_out(worker: WorkerState) -> str:
    return f"{worker.plan} (process {worker.pid})"


def _memory(
    config: Config, catalog: Catalog, runtime: Runtime, sharing: int, with_language: bool
) -> Iterator[Finding]:
    """Where a worker will lay its models out; nothing when they have been found unusable."""
    from banatie.devices.runtime import memory_for_models
    from banatie.worker.placement import plan_placement

    free = memory_for_models(runtime.device) // sharing
    try:
        model = catalog.painting_model(config.painting.model)
        language_model = None
        if with_language:
            with contextlib.suppress(BanatieError):
                language_model = catalog.language_model(config.enhancement.model)
        plan = plan_placement(
            model, language_model, runtime, PlacementPreferences.of(config), free
        )[2]
    except BanatieError:
        return
    found = plan.explanation
    if plan.needed <= free:
        yield Finding("memory", "ok", found)
        return
    if runtime.device == "cpu" and plan.needed > psutil.virtual_memory().total:
        yield Finding("memory", "FAIL", found, "set painting.model to a smaller one")
        return
    yield Finding("memory", "warn", found, "close what else uses it, or take a smaller model")


def _offline() -> Finding:
    """Whether the libraries that could fetch something have been told not to, and obey."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        remedy = "run this in a process of its own: banatie doctor"
        return Finding("offline", "FAIL", "huggingface_hub is not offline", remedy)
    proxies = ", ".join(sorted(urllib.request.getproxies_environment()))
    unused = f"; the proxies of the environment ({proxies}) are used by nothing" if proxies else ""
    return Finding("offline", "ok", f"the libraries are told to fetch nothing{unused}")


def _format(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
