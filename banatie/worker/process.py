"""The worker process: takes back what dead workers held, loads the models, answers the queues.

There is one for each device, and each is known to be alive by a lock that dies with its process
(`store.locks`). The language model runs in one of them at a time. A worker never serves HTTP.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from banatie import logs
from banatie.config import Config
from banatie.errors import BanatieError, ModelError
from banatie.jobs import JobQueue, Stage, remove_stale_sockets
from banatie.models.catalog import Catalog
from banatie.models.types import LanguageModel
from banatie.offline import stay_offline
from banatie.store.backup import finish_restore
from banatie.store.claims import Claims
from banatie.store.database import Database
from banatie.store.files import Files
from banatie.store.generations import Generations
from banatie.store.keys import Keys
from banatie.store.locks import ExclusiveRole, is_alive, live_workers, register_worker
from banatie.store.orphan_files import OrphanFiles
from banatie.store.workers import Workers, WorkerState

if TYPE_CHECKING:
    from huey.consumer import Consumer

    from banatie.worker.placement import ModelPlacement
    from banatie.worker.runner import Runner

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
LOOK_SECONDS = 2.0
HOUSEKEEPING_SECONDS = 3600.0
GRACE_SECONDS = 4.0
"""How long the threads get to put things down when the worker is told to stop."""


def run_worker(
    config: Config,
    clock: Callable[[], int],
    *,
    device: str | None = None,
    until_stdin_closes: bool = False,
) -> None:
    """Work until SIGTERM or SIGINT, or until standard input closes; then end the process.

    Without a `device` it takes the first of the settings, and wants to be the only worker.
    Raises DataFolderBusy when it is not, or must not be, and DataFolderUnusable.
    """
    stay_offline()
    if config.painting.compile:
        # What was compiled once is found again after a restart; read when torch is imported.
        folder = (config.storage.data / "compiled").absolute()
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    # Short, since it is part of a socket's path, which has little room.
    worker_id = secrets.token_hex(6)
    with register_worker(config.storage.data, worker_id, alone=device is None):
        worker = Worker(config, clock, worker_id, device)
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, lambda *_: worker.stop())
        if until_stdin_closes:
            threading.Thread(target=_wait_for_stdin, daemon=True).start()
        worker.run()
    # Everything is given back. To take torch down in good order takes seconds and serves nobody.
    logging.shutdown()
    os._exit(0)


class Worker:
    """One worker's life."""

    def __init__(
        self, config: Config, clock: Callable[[], int], worker_id: str, device: str | None
    ) -> None:
        self._config = config
        self._clock = clock
        self._wanted_device = device
        self._stop = threading.Event()
        self._begun = False
        self._database = Database(config.storage.data / "banatie.db")
        self._files = Files(config.storage.data / "storage")
        self._generations = Generations(self._database)
        self._workers = Workers(self._database)
        self._strays = OrphanFiles(self._database, self._files)
        self._language_role = ExclusiveRole(config.storage.data, "language-model")
        self._state = WorkerState(id=worker_id, pid=os.getpid(), state="starting", device=device)
        self._process = psutil.Process()
        self._device_memory: Callable[[], tuple[int, int] | None] = lambda: None
        self._placement: ModelPlacement | None = None
        self._claims = Claims(self._database, worker_id)
        self._queues: dict[Stage, JobQueue] = {}
        self._consumers: list[Consumer] = []

    def stop(self) -> None:
        """Put things down and end; before anything is held, at once."""
        self._stop.set()
        if not self._begun:
            # An exception would have to find its way out of half-made imports first.
            os._exit(0)

    def run(self) -> None:
        """Recover, load, answer, and give everything back at the end."""
        self._recover()
        heart = threading.Thread(target=self._heartbeat, daemon=True)
        heart.start()
        try:
            runner = self._load()
            self._begun = True
            if runner is None:
                self._stop.wait()
            else:
                self._answer(runner)
        finally:
            self._stop.set()
            returned = self._claims.release_claims(self._clock())
            self._workers.forget(self._state.id)
            self._database.close()
            logger.info("the worker stops; %d generations wait again", returned)

    def _recover(self) -> None:
        data = self._config.storage.data
        finish_restore(data)
        self._database.migrate()
        remove_stale_sockets(data, live_workers(data))
        self._claims.give_up(self._config.worker.max_retries, self._clock())
        self._release_dead()
        self._strays.look()
        self._sweep()
        self._report()

    def _release_dead(self) -> None:
        """Let the rows wait again that dead workers held, and forget those workers."""
        is_worker_alive = partial(is_alive, self._config.storage.data)
        holders = self._claims.other_holders()
        dead = {worker_id for worker_id in holders if not is_worker_alive(worker_id)}
        for worker_id in dead:
            returned, given_up = self._claims.release_dead(
                worker_id, self._config.worker.max_retries, self._clock()
            )
            logger.warning(
                "a worker has died: %d generations were in work, %d are given up",
                returned,
                given_up,
            )
        if self._workers.forget_dead(is_worker_alive) or dead:
            # They may have left files, too.
            self._strays.look()

    def _sweep(self) -> None:
        if swept := self._strays.sweep():
            logger.warning("%d files were swept that belong to nothing", swept)

    def _load(self):
        """The runner with its models; None when there is nothing to paint with."""
        painting = self._config.painting
        started = time.monotonic()
        catalog = Catalog(self._config.storage.models)
        try:
            # Before torch is imported, which takes seconds.
            model = catalog.painting_model(painting.model)
        except BanatieError as error:
            return self._cannot_paint(error)

        from banatie.devices.memory_plan import PlacementPreferences
        from banatie.devices.runtime import choose_runtime, device_memory
        from banatie.worker.placement import ModelPlacement
        from banatie.worker.runner import Runner

        logs.adopt("transformers", "diffusers", "huggingface_hub")
        device = self._wanted_device or self._first_device()
        # `auto` names none, and gives each worker a device of its own.
        sharing = max(1, painting.devices.count(device))
        try:
            runtime = choose_runtime(device, painting.threads, sharing)
        except BanatieError as error:
            return self._cannot_paint(error, f"The device {device!r}")
        self._device_memory = partial(device_memory, runtime.device)
        language_model = self._language_model(catalog) if self._language_role.take() else None
        try:
            placement = ModelPlacement.load(
                model,
                language_model,
                runtime,
                PlacementPreferences.of(self._config),
                sharing=sharing,
                compiled=painting.compile,
            )
        except BanatieError as error:
            self._language_role.leave()
            return self._cannot_paint(error)
        self._placement = placement
        organizations = Keys(self._database).organization_of
        runner = Runner(
            self._claims,
            self._files,
            placement,
            model,
            organizations,
            self._wants_painting,
            self._config,
            self._clock,
            catalog,
        )
        self._state = replace(
            self._state,
            state="ready",
            device=runtime.device,
            painting_model=model.name,
        )
        logger.info(
            "the worker is ready on %s after %.1f s", runtime.device, time.monotonic() - started
        )
        return runner

    def _first_device(self) -> str:
        """The first of the settings' devices; what `auto` stands for, the row tells `serve`."""
        from banatie.devices.runtime import present_devices

        devices = self._config.painting.devices
        if devices == ("auto",):
            devices = present_devices()
            self._state = replace(self._state, devices=devices)
        self._state = replace(self._state, device=devices[0])
        self._report()
        return devices[0]

    def _language_model(self, catalog: Catalog) -> LanguageModel | None:
        """The one of the settings, for who has the turn; None when there is none to be had."""
        try:
            return catalog.language_model(self._config.enhancement.model)
        except BanatieError as error:
            # Pictures can be made without it: their records will carry a warning.
            logger.error("no prompt will be enhanced: %s", error)
            return None

    def _cannot_paint(self, error: BanatieError, what: str = "") -> None:
        logger.error("nothing can be painted: %s", error)
        # Whoever asks /health needs no key, so the paths stay in the log.
        what = what or f"The model {Path(self._config.painting.model).name!r}"
        reason = f"{what} cannot be used; the log says why"
        self._state = replace(self._state, state="broken", reason=reason)
        self._report()

    def _answer(self, runner: Runner) -> None:
        self._listen("paint", runner.paint_waiting)
        if self._language_role.is_mine:
            self._listen("enhance", runner.enhance_waiting)
        self._report()
        next_housekeeping, hung = 0.0, False
        while not hung:
            with self._whatever_the_database_does():
                hung = runner.recover_hung()
                if dropped := runner.requeue_dropped():
                    logger.warning("%d generations were dropped and wait again", dropped)
                self._release_dead()
                self._sweep()
                self._take_language_role(runner)
                # A message may be lost, a row never: look for rows nobody was told of.
                for stage, queue in self._queues.items():
                    if self._claims.waiting(stage):
                        queue.notify("")
                if time.monotonic() >= next_housekeeping:
                    next_housekeeping = time.monotonic() + HOUSEKEEPING_SECONDS
                    self._purge_expired()
            if self._stop.wait(LOOK_SECONDS):
                break
        runner.stopping.set()
        for consumer in self._consumers:
            consumer.stop()
        deadline = time.monotonic() + GRACE_SECONDS
        for consumer in self._consumers:
            for _, thread in consumer.worker_threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        if hung:
            raise ModelError("the language model hangs; the worker has to start anew")

    def _listen(self, stage: Stage, answer: Callable[[str], None]) -> None:
        queue = JobQueue(stage, self._config.storage.data, answer, self._state.id)
        # What the messages are about is found in the rows.
        queue.clear()
        consumer = queue.consumer()
        consumer.start()
        self._queues[stage] = queue
        self._consumers.append(consumer)

    def _take_language_role(self, runner: Runner) -> None:
        """Enhance from now on if nobody does, because the worker that did has died."""
        if self._language_role.is_mine or not self._language_role.take():
            return
        logger.info("the language model is loaded here now")
        if language_model := self._language_model(Catalog(self._config.storage.models)):
            self._placement.adopt(language_model)
        self._listen("enhance", runner.enhance_waiting)
        self._report()

    def _wants_painting(self, generation_id: str) -> None:
        self._queues["paint"].notify(generation_id)

    def _purge_expired(self) -> None:
        now = self._clock()
        for storage_key in self._generations.purge_deleted(
            now - self._config.storage.bin_days * 86_400_000
        ):
            self._files.remove(storage_key)
        self._generations.purge_idempotent_requests(now)

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with self._whatever_the_database_does():
                self._report()

    @contextmanager
    def _whatever_the_database_does(self) -> Iterator[None]:
        """A disk that is full for a while is no reason to end: the next round tries again."""
        try:
            yield
        except BanatieError as error:
            logger.warning("%s", error)

    def _report(self) -> None:
        used, total = self._device_memory() or (None, None)
        enhancer = self._placement.enhancer if self._placement else None
        state = replace(
            self._state,
            language_model=enhancer.name if enhancer else None,
            plan=self._placement.plan.reasoned if self._placement else None,
            memory_bytes=self._process.memory_info().rss,
            device_memory_used=used,
            device_memory_total=total,
        )
        self._workers.report(state, self._clock())


def _wait_for_stdin() -> None:
    while sys.stdin.buffer.read(1):
        pass
    # To the main thread itself: only there is it noticed at once, and not after its next wait.
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
    else:
        signal.raise_signal(signal.SIGTERM)
