"""The doorbell: messages arrive, at once or by polling, and a broken queue loses nothing."""

from __future__ import annotations

import queue
import socket
import sqlite3
from pathlib import Path

import pytest

from banatie.jobs import POLL_SECONDS, Bell


@pytest.fixture
def heard() -> queue.Queue:
    return queue.Queue()


@pytest.fixture
def bell():
    """Makes bells, and closes them at the end."""
    made = []

    def bell(stage: str, folder: Path) -> Bell:
        made.append(Bell(stage, folder))
        return made[-1]

    yield bell
    for each in made:
        each.close()


@pytest.fixture
def listen(heard: queue.Queue):
    """Starts a consumer on a folder's paint bell; stops them all at the end."""
    started = []

    def listen(folder: Path, answer=heard.put) -> Bell:
        bell = Bell("paint", folder, answer)
        consumer = bell.consumer()
        consumer.start()
        started.append((bell, consumer))
        return bell

    yield listen
    for bell, consumer in started:
        consumer.stop(graceful=True)
        bell.close()


def test_a_ring_is_heard_in_another_instance(tmp_path, bell, listen, heard):
    listen(tmp_path)
    ringer = bell("paint", tmp_path)
    for generation_id in ("one", "two"):
        ringer.ring(generation_id)
    assert [heard.get(timeout=5), heard.get(timeout=5)] == ["one", "two"]


def test_a_ring_before_anyone_listens_is_kept(tmp_path, bell, listen, heard):
    bell("paint", tmp_path).ring("early")
    listen(tmp_path)
    assert heard.get(timeout=5) == "early"


def test_the_stages_do_not_hear_each_other(tmp_path, bell, listen, heard):
    listen(tmp_path)
    bell("enhance", tmp_path).ring("not for painters")
    bell("paint", tmp_path).ring("for painters")
    assert heard.get(timeout=5) == "for painters"


def test_without_a_datagram_the_reader_polls(tmp_path, bell, listen, heard, monkeypatch):
    ringer = bell("paint", tmp_path)
    listen(tmp_path)
    monkeypatch.delattr(socket, "AF_UNIX")
    ringer.ring("quiet")
    assert heard.get(timeout=5 + POLL_SECONDS) == "quiet"


def test_a_folder_too_long_for_a_socket_works_too(tmp_path, listen, heard):
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    listen(folder).ring("far down")
    assert heard.get(timeout=5 + POLL_SECONDS) == "far down"


def test_an_answer_that_raises_does_not_end_the_listening(tmp_path, listen, heard, caplog):
    def answer(generation_id: str) -> None:
        if generation_id == "bad":
            raise ValueError("on purpose")
        heard.put(generation_id)

    ringer = listen(tmp_path, answer)
    ringer.ring("bad")
    ringer.ring("good")
    assert heard.get(timeout=5) == "good"
    assert "on purpose" in caplog.text


def test_a_queue_that_cannot_be_written_is_only_logged(tmp_path, bell, caplog):
    ringer = bell("paint", tmp_path)
    with sqlite3.connect(tmp_path / "queue.db") as connection:
        connection.execute("DROP TABLE task")
    connection.close()
    ringer.ring("unheard")
    assert "could not be rung for unheard" in caplog.text
