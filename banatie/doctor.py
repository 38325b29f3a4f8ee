"""`banatie doctor`: checks everything that generating a picture needs, and reports what is wrong.

It only reads: nothing is started, written, locked or migrated, so it may run beside a server.
Repairing anything is left to the user; each finding says how.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import shutil
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from banatie.config import Config, reachable_host
from banatie.devices.host_limits import memory_total
from banatie.devices.memory_plan import PlacementPreferences
from banatie.errors import BanatieError, ConfigError, DatabaseDamaged
from banatie.model_choice import chosen_config
from banatie.models.catalog import Catalog
from banatie.models.disk_space import format_bytes
from banatie.models.manifest import sha256_of
from banatie.models.safetensors_header import parameter_count
from banatie.models.types import LanguageModel, PaintingModel
from banatie.models.validate import check_language_model, check_pipeline
from banatie.offline import stay_offline
from banatie.serve import find_address
from banatie.store.consistency import compare
from banatie.store.database import Database
from banatie.store.files import Files
from banatie.store.local_disk import disk_of, is_network_disk
from banatie.store.locks import running_server
from banatie.store.workers import Workers, WorkerState, state_of

if TYPE_CHECKING:
    from banatie.devices.runtime import Runtime

DISK_BYTES_NEEDED = 100_000_000
"""Below this, generating fails: a picture and the database's log take some megabytes."""
DISK_BYTES_WANTED = 2_000_000_000
HEALTH_TIMEOUT_SECONDS = 5.0
LARGE_PIPELINE_PARAMETERS = 1_000_000_000
"""From here on, a CPU takes minutes for a picture. SDXL has 3.5 billion."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    state: Literal["ok", "warn", "FAIL"]
    found: str
    remedy: str = ""
    """What to do about it, unless the state is ok."""


def examine(config: Config, now: int) -> Iterator[Finding]:
    """Run the checks one after the other, quick ones first."""
    # Before any of those libraries is imported.
    stay_offline()
    data = config.storage.data
    yield _folder(data)
    yield _disk(data)
    database, workers = _database(data / "banatie.db", now)
    yield database
    if database.state == "ok":
        yield _pictures(data)
    yield _worker(workers)
    yield _port(config)
    yield _address(config)
    if database.state == "ok":
        config = chosen_config(config)
    catalog = Catalog(config.storage.models)
    finding, parameters = _painting_model(catalog, config)
    yield finding
    yield _language_model(catalog, config)
    yield from _devices(config, catalog, workers, parameters)
    yield _offline()


def _folder(data: Path) -> Finding:
    check = "data folder"
    existing = _nearest_existing(data)
    if not existing.is_dir():
        remedy = "set storage.data_dir to a folder"
        return Finding(check, "FAIL", f"{existing} is not a folder", remedy)
    if not os.access(existing, os.W_OK | os.X_OK):
        remedy = "give the user who runs the server write permission, or set storage.data_dir"
        return Finding(check, "FAIL", f"{existing} is not writable for this user", remedy)
    if is_network_disk(existing):
        found = f"{data} is on a network disk, {disk_of(existing)}, where file locks may fail"
        return Finding(check, "warn", found, "set storage.data_dir to a folder on a local disk")
    if existing != data.absolute():
        return Finding(check, "ok", f"{data} does not exist yet; `banatie serve` creates it")
    return Finding(check, "ok", f"{data} is writable")


def _disk(data: Path) -> Finding:
    free = shutil.disk_usage(_nearest_existing(data)).free
    found = f"{format_bytes(free)} free for {data}"
    remedy = "free disk space, or set storage.data_dir to a folder on another disk"
    if free < DISK_BYTES_NEEDED:
        return Finding("disk", "FAIL", found, remedy)
    if free < DISK_BYTES_WANTED:
        return Finding("disk", "warn", found, remedy)
    return Finding("disk", "ok", found)


def _nearest_existing(folder: Path) -> Path:
    """The folder itself or the first of its parents that exists."""
    folder = folder.absolute()
    # Not Path.exists, which raises below a file.
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


def _database(path: Path, now: int) -> tuple[Finding, list[WorkerState]]:
    """The finding about the database, and the workers that are present in it."""
    if not path.exists():
        found = "does not exist yet; `banatie serve` creates it"
        return Finding("database", "ok", found), []
    log = path.with_name(path.name + "-wal")
    had_no_log = not log.exists()
    database = Database(path, read_only=True)
    try:
        database.check(quick=True)
        pending = database.pending()
        workers = Workers(database).present(now)
    except BanatieError as error:
        if had_no_log and log.exists():
            # A server has begun to write meanwhile, so the reading was inconsistent.
            return _database(path, now)
        remedy = "see that the disk works, is a local one, and that this user may read the file"
        if isinstance(error, DatabaseDamaged):
            remedy = "stop the server and restore a backup: banatie restore FILE"
        return Finding("database", "FAIL", str(error), remedy), []
    finally:
        database.close()
    if (file := database.read_only_file()) is not None:
        remedy = "give the user who runs the server write permission for the file"
        return Finding("database", "FAIL", f"{file} is read-only for this user", remedy), workers
    size = format_bytes(path.stat().st_size)
    if pending:
        remedy = "run: banatie migrate (`banatie serve` also does it)"
        found = f"intact, {size}; not up to date: {', '.join(pending)}"
        return Finding("database", "warn", found, remedy), workers
    return Finding("database", "ok", f"intact, {size}, up to date"), workers


def _pictures(data: Path) -> Finding:
    """Whether the database and the storage folder hold the same pictures."""
    path = data / "banatie.db"
    if not path.exists():
        return Finding("pictures", "ok", "none yet")
    database = Database(path, read_only=True)
    try:
        found = compare(database, Files(data / "storage"))
    except BanatieError as error:
        return Finding("pictures", "warn", str(error), "run it again when the server is idle")
    finally:
        database.close()
    if found.missing:
        text = f"{len(found.missing)} of {found.images} have no file, such as {found.missing[0]}"
        return Finding("pictures", "FAIL", text, "restore a backup: banatie restore FILE")
    if found.broken_links:
        text = f"the database refers to what is not there: {', '.join(found.broken_links)}"
        return Finding("pictures", "FAIL", text, "restore a backup: banatie restore FILE")
    if found.orphans:
        text = f"{len(found.orphans)} files belong to no image, such as {found.orphans[0]}"
        return Finding("pictures", "warn", text, "start a worker, which deletes them")
    return Finding("pictures", "ok", f"{found.images} images, each with its file")


def _worker(workers: list[WorkerState]) -> Finding:
    if not workers:
        return Finding("worker", "ok", "none is running; `banatie serve` starts one")
    found = "; ".join(_state(worker) for worker in workers)
    if all(worker.state != "broken" for worker in workers):
        return Finding("worker", "ok", found)
    remedy = "see the models below and the worker's log"
    all_broken = state_of(workers) == "broken"
    return Finding("worker", "FAIL" if all_broken else "warn", found, remedy)


def _state(worker: WorkerState) -> str:
    if worker.state == "broken":
        return worker.reason or "broken"
    if worker.state == "starting":
        return f"loading its models (process {worker.pid})"
    return f"ready on {worker.device} (process {worker.pid})"


def _port(config: Config) -> Finding:
    host, port = _client_host(config), config.server.port
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        find_address(config)
    except ConfigError as error:
        if (status := _health(host, port)) is None:
            remedy = "stop the program that uses it, or set server.host or server.port"
            return Finding("port", "FAIL", str(error), remedy)
        found = f"a Banatie server answers on {place}"
        if status == "ok":
            return Finding("port", "ok", found)
        if status == "starting":
            return Finding("port", "ok", f"{found} and is starting")
        remedy = f"see the other lines, and ask http://{place}/health for the reason"
        return Finding("port", "FAIL", f"{found} and cannot paint", remedy)
    if server := running_server(config.storage.data):
        found = f"{place} is free, but {server} runs on this data folder, at another address"
        remedy = "give the doctor the --host and --port that the server was given"
        return Finding("port", "warn", found, remedy)
    return Finding("port", "ok", f"{place} is free; no server is running")


def _client_host(config: Config) -> str:
    """Where a client on this machine reaches the server: its address, or loopback for all."""
    host = config.server.host
    with contextlib.suppress(OSError):
        # The server listens on the first address that a name has.
        found = socket.getaddrinfo(
            host, config.server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        host = str(found[0][4][0])
    return reachable_host(host)


def _health(host: str, port: int) -> str | None:
    """The status that a Banatie server reports there; None if there is no such server."""
    # Unlike urllib, http.client ignores the proxies of the environment.
    connection = http.client.HTTPConnection(host, port, timeout=HEALTH_TIMEOUT_SECONDS)
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
        return Finding("address", "ok", f"{host}: reachable from this machine only")
    found = f"{host}: reachable from other machines, protected by API keys alone"
    remedy = "put a reverse proxy with TLS in front, or set server.host to 127.0.0.1"
    return Finding("address", "warn", found, remedy)


def _painting_model(catalog: Catalog, config: Config) -> tuple[Finding, int]:
    """The finding about the model, and how many parameters it has (0 if it cannot be used)."""
    try:
        model = catalog.painting_model(config.painting.model)
        files = [file for parts in check_pipeline(model.folder).values() for file in parts]
        finding = _intact("painting model", model, files, "no hashes known")
        return finding, parameter_count(files)
    except BanatieError as error:
        return Finding("painting model", "FAIL", str(error), "see them all: banatie models list"), 0


def _language_model(catalog: Catalog, config: Config) -> Finding:
    check = "language model"
    try:
        model = catalog.language_model(config.enhancement.model)
    except BanatieError as error:
        # Pictures are painted without it, from the prompts as they are.
        found = f"{error}; no prompt will be enhanced"
        return Finding(check, "warn", found, "see them all: banatie models list")
    remedy = f"run: banatie models pull {model.name}" if model.source else "copy it there again"
    try:
        files = check_language_model(model.folder)
        settings = json.loads((model.folder / "config.json").read_text("utf-8"))
        # The catalog has the hashes of the model without its adapter only.
        known = {} if "merged_adapter" in settings else model.sha256
        for name, expected in known.items():
            if sha256_of(model.folder / name) != expected:
                found = f"{model.folder / name} differs from the catalog's file (SHA-256 differs)"
                return Finding(check, "FAIL", found, f"remove the folder and {remedy}")
        return _intact(check, model, files, "hashes match" if known else "no hashes known")
    except BanatieError as error:
        return Finding(check, "FAIL", str(error), f"remove the folder and {remedy}")


def _intact(
    check: str, model: PaintingModel | LanguageModel, files: list[Path], hashes: str
) -> Finding:
    size = format_bytes(sum(file.stat().st_size for file in files))
    return Finding(check, "ok", f"{model.name}: {len(files)} weight files intact, {size}, {hashes}")


def _devices(
    config: Config, catalog: Catalog, workers: Sequence[WorkerState], parameters: int
) -> Iterator[Finding]:
    """The devices that paint, and how the models will use their memory."""
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
            finding, runtime = _device(device, config, parameters)
        except ConfigError as error:
            remedy = 'set painting.devices to ["auto"], or install the torch that fits this machine'
            yield Finding("device", "FAIL", str(error), remedy)
            continue
        yield finding
        running = [each for each in workers if each.device == device and each.plan]
        if running:
            plans = (f"{each.plan} (process {each.pid})" for each in running)
            yield Finding("memory", "ok", "; ".join(plans))
        else:
            # The language model runs in one of the workers, most likely in the first one.
            yield from _memory(config, catalog, runtime, devices.count(device), number == 0)


def _device(device: str, config: Config, parameters: int) -> tuple[Finding, Runtime]:
    import torch

    from banatie.devices.runtime import choose_runtime

    runtime = choose_runtime(device, config.painting.threads)
    name = f" ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else ""
    formats = f"paints in {_format(runtime.dtype)}, enhances in {_format(runtime.language_dtype)}"
    found = f"{device}{name}: {formats}"
    if device == "cpu" and parameters >= LARGE_PIPELINE_PARAMETERS:
        remedy = "set painting.model to a smaller one, or use a machine with a GPU"
        return Finding("device", "warn", f"{found}; a picture will take minutes", remedy), runtime
    return Finding("device", "ok", found), runtime


def _memory(
    config: Config, catalog: Catalog, runtime: Runtime, sharing: int, with_language: bool
) -> Iterator[Finding]:
    """The memory plan of a worker; nothing if its models were found unusable."""
    from banatie.devices.runtime import memory_for_models
    from banatie.worker.placement import plan_placement

    free = memory_for_models(runtime.device) // sharing
    try:
        model = catalog.painting_model(config.painting.model)
        language_model = None
        if with_language:
            with contextlib.suppress(BanatieError):
                language_model = catalog.language_model(config.enhancement.model)
        ip_adapter = None
        with contextlib.suppress(BanatieError):
            ip_adapter = catalog.choose_ip_adapter(config.painting.ip_adapter, model)
        plan = plan_placement(
            model, language_model, runtime, PlacementPreferences.of(config), free, ip_adapter
        )[2]
    except BanatieError:
        return
    found = plan.explanation
    if plan.needed <= free:
        yield Finding("memory", "ok", found)
        return
    if runtime.device == "cpu" and plan.needed > memory_total():
        yield Finding("memory", "FAIL", found, "set painting.model to a smaller one")
        return
    yield Finding(
        "memory", "warn", found, "close other programs that use the memory, or set a smaller model"
    )


def _offline() -> Finding:
    """Whether the libraries that could download something are set to offline."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        remedy = "run it in a process of its own: banatie doctor"
        return Finding("offline", "FAIL", "huggingface_hub is not offline", remedy)
    proxies = ", ".join(sorted(urllib.request.getproxies_environment()))
    unused = f"; the proxies of the environment ({proxies}) are not used" if proxies else ""
    return Finding("offline", "ok", f"the libraries are set to download nothing{unused}")


def _format(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
