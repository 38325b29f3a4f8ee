"""The watchdog: heartbeats while all goes on, and the end of a process whose work hangs."""

from __future__ import annotations

import os
import threading

import pytest

from banatie.worker import watchdog
from banatie.worker.watchdog import Watchdog
from tests.support.polling import wait_until


@pytest.fixture
def stop(monkeypatch):
    monkeypatch.setattr(watchdog, "BEAT_SECONDS", 0.02)
    stop = threading.Event()
    yield stop
    stop.set()


def test_its_heartbeats_say_whether_the_models_are_loaded(stop):
    reading, writing = os.pipe()
    dog = Watchdog(writing)
    dog.start(stop)
    assert os.read(reading, 1) == b"l"
    dog.report_loaded()
    wait_until(lambda: os.read(reading, 1) == b"r", "a heartbeat of a loaded worker")
    stop.set()
    os.close(reading)


def test_work_that_makes_no_progress_ends_the_process(stop, caplog):
    ended = threading.Event()
    dog = Watchdog(end=ended.set)
    idle, painting = dog.watch("the idle", 0.02), dog.watch("the painting", 2.0)
    dog.start(stop)
    with painting.working():
        for _ in range(3):
            assert not ended.wait(0.8)
            painting.progress()
        assert ended.wait(20)
    assert "the painting has made no progress for 2 s" in caplog.text
    assert not idle.is_hung()


def test_work_that_has_ended_is_not_watched(stop):
    dog = Watchdog()
    painting = dog.watch("the painting", 0.0)
    with painting.working():
        assert painting.is_hung()
    assert not painting.is_hung()


def test_a_supervisor_that_reads_no_more_or_is_gone_holds_nothing_up(stop):
    reading, writing = os.pipe()
    dog = Watchdog(writing)
    filled = 0
    try:
        while True:
            filled += os.write(writing, bytes(4096))
    except BlockingIOError:
        assert filled
    ended = threading.Event()
    dog = Watchdog(writing, end=ended.set)
    painting = dog.watch("the painting", 0.1)
    dog.start(stop)
    os.close(reading)
    with painting.working():
        assert ended.wait(20)
