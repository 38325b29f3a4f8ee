"""The worker process: starts, loads the models, works on the queues, and stops.

There is one for each device, and each is known to be alive by a lock that ends with its process
(`store.locks`). The language model runs in one of them at a time. A worker never serves HTTP.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from banatie.config import Config
from banatie.devices.memory_plan import PlacementPreferences
from banatie.errors import BanatieError, ModelError
from banatie.jobs import remove_stale_sockets
from banatie.logs import capture_library_logs
from banatie.model_choice import RELOAD_STATUS, with_chosen_model
from banatie.models.catalog import Catalog
from banatie.models.types import IpAdapter, LanguageModel, PaintingModel
from banatie.offline import stay_offline
from banatie.store.backup import finish_restore
from banatie.store.claims import Claims
from banatie.store.database import Database
from banatie.store.files import Files
from banatie.store.images import Images
from banatie.store.keys import Keys
from banatie.store.local_disk import check_locks
from banatie.store.locks import ExclusiveRole, live_workers, register_worker
from banatie.store.workers import Workers, WorkerState
from banatie.worker.claimed_rows import ClaimedRows
from banatie.worker.housekeeping import Heartbeat, Housekeeping
from banatie.worker.queue_readers import QueueReaders
from banatie.worker.watchdog import Activity, Watchdog, take_standard_output

if TYPE_CHECKING:
    # They import torch, which takes seconds.
    from banatie.devices.runtime import Runtime
    from banatie.worker.enhance import EnhanceStage
    from banatie.worker.paint import PaintStage
    from banatie.worker.placement import ModelPlacement
    from banatie.worker.save import SaveStage

logger = logging.getLogger(__name__)

ROUND_SECONDS = 2.0
"""How far apart the rounds of housekeeping are."""
DRAIN_SECONDS = 0.1
"""The same while the last pictures before another model is loaded are finished."""
GRACE_SECONDS = 4.0
"""How long the threads get to finish when the worker stops."""
HUNG_SECONDS = 900.0
"""Far longer than a step or a compilation takes on a GPU."""
HUNG_SAVING_SECONDS = 900.0
"""Far longer than encoding a picture and flushing its file takes on a slow disk."""
HUNG_ON_CPU_SECONDS = 3600.0
"""On a slow CPU, a step or the VAE takes minutes, and longer while memory is swapped."""


def run_worker(
    config: Config,
    clock: Callable[[], int],
    *,
    device: str | None = None,
    until_stdin_closes: bool = False,
    heartbeat: bool = False,
) -> None:
    """Work until SIGTERM or SIGINT, or until standard input closes; then end the process.

    With `heartbeat`, standard output is a pipe to the supervisor, which reads heartbeats from it.
    Without a `device` it takes the first of the settings, and has to be the only worker. Raises
    DataFolderBusy when it is not, or while a restore runs; DataFolderUnusable; and ModelError when
    the language model hangs.
    """
    stay_offline()
    check_locks(config.storage.data)
    if config.painting.compile:
        # Compiled code is found again after a restart. Read when torch is imported.
        folder = (config.storage.data / "compiled").absolute()
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    watchdog = Watchdog(take_standard_output() if heartbeat else None)
    # Short, since it is part of a socket's path, whose length is limited.
    worker_id = secrets.token_hex(6)
    with register_worker(config.storage.data, worker_id, alone=device is None):
        worker = Worker(config, clock, worker_id, device, watchdog)
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, lambda *_: worker.stop())
        if until_stdin_closes:
            threading.Thread(target=_wait_for_stdin, daemon=True).start()
        worker.run()
    # Nothing is left to clean up, and a clean shutdown of torch would take seconds.
    logging.shutdown()
    if not worker.has_to_reload:
        os._exit(0)
    if heartbeat:
        # The supervisor starts another one at once.
        os._exit(RELOAD_STATUS)
    os.execv(sys.executable, sys.orig_argv)


@dataclass(frozen=True)
class _Stages:
    """What a worker does with its models."""

    placement: ModelPlacement
    enhance: EnhanceStage
    paint: PaintStage
    save: SaveStage


class _Unusable(Exception):
    """The model or the device cannot be used; the cause is the reason."""


class Worker:
    """A worker process."""

    def __init__(
        self,
        config: Config,
        clock: Callable[[], int],
        worker_id: str,
        device: str | None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._settings = config
        self._config = config
        """With the model that was chosen at run time, from `_load` on."""
        self._clock = clock
        self._device = device
        self.has_to_reload = False
        """Whether it has ended because another model is to be loaded."""
        self._stop = threading.Event()
        self._is_loaded = False
        self._watchdog = watchdog or Watchdog()
        data = config.storage.data
        self._database = Database(data / "banatie.db")
        self._files = Files(data / "storage")
        self._rows = ClaimedRows(Claims(self._database, worker_id), clock)
        self._heartbeat = Heartbeat(
            Workers(self._database),
            clock,
            WorkerState(id=worker_id, pid=os.getpid(), state="starting", device=device),
        )
        self._housekeeping = Housekeeping(config, self._database, self._files, self._rows)
        self._language_role = ExclusiveRole(data, "language-model")
        self._readers = QueueReaders(data, worker_id)

    def stop(self) -> None:
        """A graceful shutdown within the grace time; at once while the models are still loading."""
        self._stop.set()
        if not self._is_loaded:
            # An exception would have to propagate through imports in progress first.
            os._exit(0)

    def run(self) -> None:
        """Recover, load, and work until stopped. Raises ModelError on a hung model."""
        self._watchdog.start(self._stop)
        self._recover()
        self._heartbeat.start(self._stop)
        try:
            stages = self._load()
            self._is_loaded = True
            self._watchdog.report_loaded()
            if stages is None:
                self._wait_for_another_model()
            else:
                self._work(stages)
        finally:
            self._stop.set()
            requeued = self._rows.claims.release_claims(self._clock())
            self._heartbeat.end()
            self._database.close()
            logger.info("the worker stops; requeued %d generations", requeued)

    def _recover(self) -> None:
        data = self._config.storage.data
        finish_restore(data)
        self._database.migrate()
        remove_stale_sockets(data, live_workers(data))
        self._housekeeping.recover()
        self._heartbeat.report()

    def _load(self) -> _Stages | None:
        """The stages with their models; None when nothing can be painted, which is reported."""
        started = time.monotonic()
        self._config = with_chosen_model(self._settings, self._database)
        try:
            stages = self._load_stages()
        except _Unusable as unusable:
            logger.error("nothing can be painted: %s", unusable.__cause__)
            # /health needs no key, so the paths stay in the log.
            reason = f"{unusable} cannot be used; the log says why"
            self._heartbeat.report(replace(self._heartbeat.state, state="broken", reason=reason))
            return None
        device = self._heartbeat.state.device
        logger.info("the worker is ready on %s after %.1f s", device, time.monotonic() - started)
        return stages

    def _load_stages(self) -> _Stages:
        painting = self._config.painting
        catalog = Catalog(self._config.storage.models)
        with _blaming(f"The model {Path(painting.model).name!r}"):
            # Before torch is imported, which takes seconds.
            model = catalog.painting_model(painting.model)

        from banatie.devices.runtime import choose_runtime, device_memory

        capture_library_logs("transformers", "diffusers", "huggingface_hub")
        device = self._device or self._first_device()
        # `auto` names no device, and each worker gets one of its own.
        sharing = max(1, painting.devices.count(device))
        with _blaming(f"The device {device!r}"):
            runtime = choose_runtime(device, painting.threads, sharing)
        self._heartbeat.device_memory = partial(device_memory, runtime.device)
        placement = self._load_models(
            model, _ip_adapter(self._config, catalog, model), runtime, sharing
        )
        limit = HUNG_ON_CPU_SECONDS if runtime.device == "cpu" else HUNG_SECONDS
        activity = self._watchdog.watch("the painting", limit)
        stages = self._build_stages(catalog, model, placement, activity)
        self._heartbeat.placement = placement
        self._heartbeat.state = replace(
            self._heartbeat.state, state="ready", device=runtime.device, painting_model=model.name
        )
        return stages

    def _first_device(self) -> str:
        """The first of the settings' devices; what `auto` stands for, the row tells `serve`."""
        from banatie.devices.runtime import present_devices

        state, devices = self._heartbeat.state, self._config.painting.devices
        if devices == ("auto",):
            devices = present_devices()
            state = replace(state, devices=devices)
        self._heartbeat.report(replace(state, device=devices[0]))
        return devices[0]

    def _load_models(
        self,
        model: PaintingModel,
        ip_adapter: IpAdapter | None,
        runtime: Runtime,
        sharing: int,
    ) -> ModelPlacement:
        from banatie.worker.placement import ModelPlacement

        language_model = _language_model(self._config) if self._language_role.acquire() else None
        try:
            with _blaming(f"The model {Path(self._config.painting.model).name!r}"):
                return ModelPlacement.load(
                    model,
                    language_model,
                    runtime,
                    PlacementPreferences.of(self._config),
                    sharing=sharing,
                    compiled=self._config.painting.compile,
                    ip_adapter=ip_adapter,
                )
        except _Unusable:
            self._language_role.release()
            raise

    def _build_stages(
        self,
        catalog: Catalog,
        model: PaintingModel,
        placement: ModelPlacement,
        activity: Activity,
    ) -> _Stages:
        """The stages, each with what it needs."""
        from banatie.worker.enhance import EnhanceStage
        from banatie.worker.job_builder import JobBuilder, SourcePictures
        from banatie.worker.paint import PaintStage
        from banatie.worker.save import Provenance, SaveStage

        config, rows = self._config, self._rows
        provenance = Provenance(placement.painter, model) if config.storage.metadata else None
        save = SaveStage(
            rows,
            self._files,
            Keys(self._database).organization_of,
            provenance,
            self._watchdog.watch("saving a picture", HUNG_SAVING_SECONDS),
        )
        sources = SourcePictures(Images(self._database).find, self._files)
        jobs = JobBuilder(model, catalog, sources, placement.painter.reads_pictures)
        notify, previews = self._readers.notify_painter, config.painting.previews
        return _Stages(
            placement=placement,
            enhance=EnhanceStage(rows, placement, config.enhancement.time_limit, notify),
            paint=PaintStage(rows, placement, jobs, save, activity, previews=previews),
            save=save,
        )

    def _work(self, stages: _Stages) -> None:
        self._readers.start("paint", stages.paint.run_waiting)
        if self._language_role.is_mine:
            self._readers.start("enhance", stages.enhance.run_waiting)
        self._heartbeat.report()
        housekeeping = self._watchdog.watch("the housekeeping", HUNG_SECONDS)
        while not (is_hung := self._do_round(stages, housekeeping)):
            draining = self._rows.draining.is_set()
            if draining and not self._rows.are_in_hand():
                self.has_to_reload = True
                break
            if self._stop.wait(DRAIN_SECONDS if draining else ROUND_SECONDS):
                break
        self._rows.stopping.set()
        deadline = time.monotonic() + GRACE_SECONDS
        self._readers.stop(deadline)
        stages.save.close(max(0.0, deadline - time.monotonic()))
        if is_hung:
            raise ModelError("the language model hangs; the worker has to restart")

    def _do_round(self, stages: _Stages, activity: Activity) -> bool:
        """Watch the language model and do the housekeeping; True if the language model hangs."""
        try:
            with activity.working():
                if stages.enhance.recover_hung():
                    return True
                self._housekeeping.run(self._readers.queues)
                self._take_language_role(stages)
                if self._is_another_model_chosen():
                    self._rows.draining.set()
        except BanatieError as error:
            # A disk that is full now may have room in the next round.
            logger.warning("housekeeping failed and will be tried again: %s", error)
        return False

    def _wait_for_another_model(self) -> None:
        """Wait until stopped, or until another model is chosen in place of one that is broken."""
        while not self._stop.wait(ROUND_SECONDS):
            with contextlib.suppress(BanatieError):
                if self._is_another_model_chosen():
                    self.has_to_reload = True
                    return

    def _is_another_model_chosen(self) -> bool:
        chosen = with_chosen_model(self._settings, self._database).painting.model
        return chosen != self._config.painting.model

    def _take_language_role(self, stages: _Stages) -> None:
        """Enhance from now on if no worker does, because the one that did has died."""
        if self._language_role.is_mine or not self._language_role.acquire():
            return
        logger.info("the language model is loaded here now")
        if language_model := _language_model(self._config):
            stages.placement.load_language_model(language_model)
        self._readers.start("enhance", stages.enhance.run_waiting)
        self._heartbeat.report()


def _language_model(config: Config) -> LanguageModel | None:
    """The settings' language model; None, which is logged, if it is not installed."""
    try:
        return Catalog(config.storage.models).language_model(config.enhancement.model)
    except BanatieError as error:
        # Pictures are painted without it, with a warning in their records.
        logger.error("no prompt will be enhanced: %s", error)
        return None


def _ip_adapter(config: Config, catalog: Catalog, model: PaintingModel) -> IpAdapter | None:
    """The IP-Adapter that the settings ask for; None, which is logged, if it cannot be used."""
    try:
        return catalog.choose_ip_adapter(config.painting.ip_adapter, model)
    except BanatieError as error:
        # The first reference guides then, with a warning in the record.
        logger.error("several references cannot be combined: %s", error)
        return None


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    """Turn an expected error of the block into one that names what cannot be used."""
    try:
        yield
    except BanatieError as error:
        raise _Unusable(what) from error


def _wait_for_stdin() -> None:
    # Not through sys.stdin, whose lock the interpreter would wait for when it ends by an error.
    while os.read(sys.stdin.fileno(), 1):
        pass
    # To the main thread itself: only there is it noticed at once, and not after its next wait.
    main_thread = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main_thread is not None:
        signal.pthread_kill(main_thread, signal.SIGTERM)
    else:
        signal.raise_signal(signal.SIGTERM)
