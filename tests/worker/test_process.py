"""A worker's life inside this process: it loads, works on the queues, and leaves nothing behind."""

from __future__ import annotations

import threading
import time

import pytest

from banatie.config import Config, load_config
from banatie.jobs import JobQueue
from banatie.store.locks import register_worker
from banatie.store.model_choices import ModelChoices
from banatie.store.workers import Workers
from banatie.worker.process import Worker
from tests.support.polling import wait_until

PATIENCE = 20.0


@pytest.fixture
def config(model_folder, tmp_path) -> Config:
    settings = {
        "storage.data_dir": str(tmp_path),
        "storage.models_dir": str(model_folder),
        "painting.model": "sdxl",
        "painting.devices": "cpu",
        "enhancement.model": "language",
    }
    return load_config(None, {}, settings)


@pytest.fixture
def run_worker(config, database):
    """Runs a worker in a thread until it is told to stop; gives it once it is ready."""
    running: list[tuple[Worker, threading.Thread]] = []

    def run_worker(worker_id: str = "worker-2") -> Worker:
        worker = Worker(config, lambda: 5, worker_id, "cpu")

        def run() -> None:
            with register_worker(config.storage.data, worker_id, alone=False):
                worker.run()

        thread = threading.Thread(target=run)
        thread.start()
        running.append((worker, thread))
        workers = Workers(database)
        wait_until(
            lambda: any(each.state == "ready" for each in workers.present(5)), "a ready worker"
        )
        return worker

    yield run_worker
    for worker, thread in running:
        worker.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_worker_paints_and_ends_all_its_threads(
    config, run_worker, submit, generations, database
):
    before = set(threading.enumerate())
    worker = run_worker()
    made = [submit("a red cat", steps=2), submit("a dog", steps=2, auto_enhance=False)]
    queue = JobQueue("enhance", config.storage.data)
    queue.notify(made[0].id)
    queue.close()
    wait_until(
        lambda: all(generations.find(each.id).status == "success" for each in made), "the pictures"
    )
    assert generations.find(made[0].id).enhancement.model == "language"
    assert "save_0" in {thread.name for thread in set(threading.enumerate()) - before}
    worker.stop()
    wait_until(lambda: set(threading.enumerate()) <= before, "all threads to end")
    assert Workers(database).present(5) == []


def test_stopping_does_not_wait_for_the_next_message(run_worker, monkeypatch):
    monkeypatch.setattr("banatie.jobs.IDLE_SECONDS", 600.0)
    before = set(threading.enumerate())
    worker = run_worker()
    started = time.monotonic()
    worker.stop()
    wait_until(
        lambda: set(threading.enumerate()) <= before | {threading.current_thread()},
        "all threads to end",
    )
    assert time.monotonic() - started < 3


def test_a_worker_ends_for_another_model_once_its_picture_is_finished(
    config, run_worker, submit, generations, database
):
    worker = run_worker()
    made = submit("a red cat", steps=60, auto_enhance=False)
    queue = JobQueue("paint", config.storage.data)
    queue.notify(made.id)
    queue.close()
    wait_until(lambda: generations.find(made.id).status == "processing", "the painting to begin")
    ModelChoices(database).store("another", "sdxl", 6)
    wait_until(lambda: worker.has_to_reload, "the worker to end")
    wait_until(lambda: Workers(database).present(5) == [], "the worker's row to be removed")
    found = generations.find(made.id)
    assert (found.status, found.retry_count) == ("success", 0)


def test_a_worker_without_a_model_waits_for_another_one(config, database):
    ModelChoices(database).store("missing", "sdxl", 6)
    worker = Worker(config, lambda: 5, "worker-2", "cpu")

    def run() -> None:
        with register_worker(config.storage.data, "worker-2", alone=False):
            worker.run()

    thread = threading.Thread(target=run)
    thread.start()
    workers = Workers(database)
    wait_until(lambda: [each.state for each in workers.present(5)] == ["broken"], "a broken worker")
    assert "'missing'" in workers.present(5)[0].reason
    ModelChoices(database).store("sdxl", "sdxl", 7)
    thread.join(PATIENCE)
    assert worker.has_to_reload
