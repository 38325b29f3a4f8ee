"""`banatie generate`: one picture, by the worker that is there or by one started for it.

The row is the truth here too: it is submitted like any other and watched until it has ended, so
nothing but the data folder is needed to reach a running service.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from banatie.config import Config
from banatie.errors import GenerationFailed, ModelError
from banatie.records import Generation, Submission
from banatie.services import Services, open_services
from banatie.store.locks import live_workers
from banatie.store.workers import state_of

LOOK_SECONDS = 0.05
STOP_SECONDS = 6.0


def generate(
    config: Config,
    clock: Callable[[], int],
    submission: Submission,
    worker_command: Sequence[str],
) -> Path:
    """Make the picture and return the path of its file.

    Raises GenerationFailed with the reason, and ModelError when no worker can paint.
    """
    services = open_services(config, clock)
    project_id = services.keys.default_project_id(clock())
    generation = services.intake.submit(project_id, submission).generation
    worker = None
    if not live_workers(config.storage.data):
        worker = subprocess.Popen([*worker_command], stdin=subprocess.PIPE)
    try:
        ended = _watch(services, generation, worker)
    except BaseException:
        # Interrupted, or no worker: nobody is there for the picture any more.
        services.intake.cancel(project_id, generation.id)
        raise
    finally:
        if worker is not None:
            _stop(worker)
    if ended.image is None:
        raise GenerationFailed(ended.error_message or "It failed", None)
    return services.files.path(ended.image.storage_key)


def _watch(
    services: Services, generation: Generation, worker: subprocess.Popen | None
) -> Generation:
    with click.progressbar(
        length=100, label="waiting", file=click.get_text_stream("stderr")
    ) as bar:
        while not generation.is_ended:
            time.sleep(LOOK_SECONDS)
            generation = services.intake.get(generation.project_id, generation.id)
            bar.label = _label(generation)
            percent = 100 * generation.step // generation.steps if generation.steps else 0
            bar.update(percent - bar.pos)
            _check_worker(services, worker)
        bar.update(100 - bar.pos)
    return generation


def _label(generation: Generation) -> str:
    if generation.stage == "enhance":
        return "enhancing"
    return "painting" if generation.status == "processing" else "waiting"


def _check_worker(services: Services, worker: subprocess.Popen | None) -> None:
    present = services.workers.present(services.clock())
    if state_of(present) == "broken":
        raise ModelError(present[0].reason or "the worker is broken")
    if worker is not None and worker.poll() is not None:
        raise ModelError(f"the worker ended with status {worker.returncode}")


def _stop(worker: subprocess.Popen) -> None:
    worker.stdin.close()
    try:
        worker.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()
