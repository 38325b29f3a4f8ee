"""The worker process: takes back what a dead worker held, loads the models, answers the bells.

One worker owns a data folder, by a lock that dies with its process. It never serves HTTP.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil

from banatie import logs
from banatie.config import Config
from banatie.errors import BanatieError, ModelError
from banatie.jobs import Bell, Stage
from banatie.store.backup import finish_restore
from banatie.store.claims import Claims
from banatie.store.database import Database
from banatie.store.files import Files
from banatie.store.generations import Generations
from banatie.store.images import Images
from banatie.store.keys import Keys
from banatie.store.locks import holding
from banatie.store.workers import Workers, WorkerState

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
LOOK_SECONDS = 2.0
HOUSEKEEPING_SECONDS = 3600.0
GRACE_SECONDS = 4.0
"""How long the threads get to put things down when the worker is told to stop."""


def run_worker(
    config: Config, clock: Callable[[], int], *, until_stdin_closes: bool = False
) -> None:
    """Work until SIGTERM or SIGINT, or until standard input closes if that is wanted.

    Raises DataFolderBusy when another worker has the data folder, and DataFolderUnusable.
    """
    stay_offline()
    with holding(config.storage.data, "worker"):
        worker = Worker(config, clock)
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, lambda *_: worker.stop())
        if until_stdin_closes:
            threading.Thread(target=_wait_for_stdin, daemon=True).start()
        worker.run()


class Worker:
    """One worker's life."""

    def __init__(self, config: Config, clock: Callable[[], int]) -> None:
        self._config = config
        self._clock = clock
        self._stop = threading.Event()
        self._begun = False
        self._database = Database(config.storage.data / "banatie.db")
        self._files = Files(config.storage.data / "storage")
        self._generations = Generations(self._database)
        self._workers = Workers(self._database)
        self._state = WorkerState(id=str(uuid.uuid4()), pid=os.getpid(), state="starting")
        self._process = psutil.Process()
        self._device_memory: Callable[[], tuple[int, int] | None] = lambda: None
        self._claims = Claims(self._database, self._state.id)
        self._bells: dict[Stage, Bell] = {}

    def stop(self) -> None:
        """Put things down and end; before anything is held, at once."""
        self._stop.set()
        if not self._begun:
            # An exception would have to find its way out of half-made imports first.
            os._exit(0)

    def run(self) -> None:
        """Recover, load, answer, and give everything back at the end."""
        self._recover()
        heart = threading.Thread(target=self._beat, daemon=True)
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
            returned = self._claims.take_back(self._clock(), after_crash=False)
            self._workers.forget_all()
            logger.info("the worker stops; %d generations wait again", returned)

    def _recover(self) -> None:
        finish_restore(self._config.storage.data)
        self._database.migrate()
        self._workers.forget_all()
        now = self._clock()
        # Whoever held these rows is dead, or the lock would not be ours.
        returned = self._claims.take_back(now, after_crash=True)
        given_up = self._claims.give_up(self._config.worker.max_retries, now)
        swept = self._files.sweep(Images(self._database).storage_keys())
        self._report()
        if returned or swept:
            logger.warning(
                "after a crash: %d generations were in work, %d given up, %d files swept",
                returned,
                given_up,
                swept,
            )

    def _load(self):
        """The runner with its models; None when there is nothing to paint with."""
        from banatie.inference.catalog import Catalog

        painting, enhancement = self._config.painting, self._config.enhancement
        started = time.monotonic()
        catalog = Catalog(self._config.storage.models)
        try:
            # Before torch is imported, which takes seconds.
            model = catalog.painting_model(painting.model)
        except BanatieError as error:
            return self._cannot_paint(error)

        from banatie.inference.enhancer import Enhancer
        from banatie.inference.painter import Painter
        from banatie.inference.runtime import choose_runtime, device_memory
        from banatie.runner import Runner

        logs.adopt("transformers", "diffusers", "huggingface_hub")
        runtime = choose_runtime(painting.device, painting.threads)
        self._device_memory = partial(device_memory, runtime.device)
        language_model = enhancer = None
        try:
            language_model = catalog.language_model(enhancement.model)
            enhancer = Enhancer.load(language_model, runtime)
        except BanatieError as error:
            # Pictures can be made without it: their records will carry a warning.
            logger.error("no prompt will be enhanced: %s", error)
        try:
            painter = Painter.load(model, runtime)
        except BanatieError as error:
            return self._cannot_paint(error)
        organizations = Keys(self._database).organization_of
        runner = Runner(
            self._claims,
            self._files,
            painter,
            model,
            enhancer,
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
            language_model=language_model.name if enhancer else None,
            painting_model=model.name,
        )
        logger.info(
            "the worker is ready on %s after %.1f s", runtime.device, time.monotonic() - started
        )
        return runner

    def _cannot_paint(self, error: BanatieError) -> None:
        logger.error("nothing can be painted: %s", error)
        # Whoever asks /health needs no key, so the paths stay in the log.
        name = Path(self._config.painting.model).name
        reason = f"The model {name!r} cannot be used; the log says why"
        self._state = replace(self._state, state="broken", reason=reason)
        self._report()

    def _answer(self, runner) -> None:
        folder = self._config.storage.data
        self._bells["enhance"] = Bell("enhance", folder, runner.enhance_waiting)
        self._bells["paint"] = Bell("paint", folder, runner.paint_waiting)
        consumers = []
        for bell in self._bells.values():
            bell.clear()
            consumers.append(bell.consumer())
        for consumer in consumers:
            consumer.start()
        self._report()
        next_housekeeping, hung = 0.0, False
        while not hung:
            with self._whatever_the_database_does():
                hung = runner.pick_up_hung()
                if dropped := runner.pick_up_fallen():
                    logger.warning("%d generations were dropped and wait again", dropped)
                # A message may be lost, a row never: look for rows nobody was told of.
                for stage, bell in self._bells.items():
                    if self._claims.waiting(stage):
                        bell.ring("")
                if time.monotonic() >= next_housekeeping:
                    next_housekeeping = time.monotonic() + HOUSEKEEPING_SECONDS
                    self._keep_house()
            if self._stop.wait(LOOK_SECONDS):
                break
        runner.stopping.set()
        for consumer in consumers:
            consumer.stop()
        deadline = time.monotonic() + GRACE_SECONDS
        for consumer in consumers:
            for _, thread in consumer.worker_threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        if hung:
            raise ModelError("the language model hangs; the worker has to start anew")

    def _wants_painting(self, generation_id: str) -> None:
        self._bells["paint"].ring(generation_id)

    def _keep_house(self) -> None:
        now = self._clock()
        for storage_key in self._generations.empty_bin(
            now - self._config.storage.bin_days * 86_400_000
        ):
            self._files.remove(storage_key)
        self._generations.forget_answers(now)

    def _beat(self) -> None:
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
        state = replace(
            self._state,
            memory_bytes=self._process.memory_info().rss,
            device_memory_used=used,
            device_memory_total=total,
        )
        self._workers.report(state, self._clock())


def stay_offline() -> None:
    """Tell the libraries, before they are imported, to fetch nothing; that they obey is tested."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[name] = "1"
    # Their progress bars and hints about packages that are not needed would only hide our lines.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Two threads compute at once on a CPU; those that wait must sleep, or they stall each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _wait_for_stdin() -> None:
    while sys.stdin.buffer.read(1):
        pass
    # To the main thread itself: only there is it noticed at once, and not after its next wait.
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
    else:
        signal.raise_signal(signal.SIGTERM)
