"""The doorbell: messages arrive, at once or by polling, and a broken queue loses nothing."""

from __future__ import annotations

import socket
import sqlite3
import time
from pathlib import Path
from queue import Queue

import pytest

from banatie.jobs import POLL_SECONDS, JobQueue, remove_stale_sockets


@pytest.fixture
def heard() -> Queue:
    return Queue()


@pytest.fixture
def queue():
    """Makes queues, and closes them at the end."""
    made = []

    def queue(stage: str, folder: Path) -> JobQueue:
        made.append(JobQueue(stage, folder))
        return made[-1]

    yield queue
    for each in made:
        each.close()


@pytest.fixture
def listen(heard: Queue):
    """Starts a consumer on a folder's paint queue; stops them all at the end."""
    started = []

    def listen(folder: Path, answer=heard.put, reader: str = "reader") -> JobQueue:
        queue = JobQueue("paint", folder, answer, reader)
        consumer = queue.consumer()
        consumer.start()
        started.append((queue, consumer))
        return queue

    yield listen
    for queue, consumer in started:
        consumer.stop(graceful=True)
        queue.close()


def test_a_ring_is_heard_in_another_instance(tmp_path, queue, listen, heard):
    listen(tmp_path)
    ringer = queue("paint", tmp_path)
    for generation_id in ("one", "two"):
        ringer.notify(generation_id)
    assert [heard.get(timeout=5), heard.get(timeout=5)] == ["one", "two"]


def test_a_ring_before_anyone_listens_is_kept(tmp_path, queue, listen, heard):
    queue("paint", tmp_path).notify("early")
    listen(tmp_path)
    assert heard.get(timeout=5) == "early"


def test_the_stages_do_not_hear_each_other(tmp_path, queue, listen, heard):
    listen(tmp_path)
    queue("enhance", tmp_path).notify("not for painters")
    queue("paint", tmp_path).notify("for painters")
    assert heard.get(timeout=5) == "for painters"


def test_without_a_datagram_the_reader_polls(tmp_path, queue, listen, heard, monkeypatch):
    ringer = queue("paint", tmp_path)
    listen(tmp_path)
    monkeypatch.delattr(socket, "AF_UNIX")
    ringer.notify("quiet")
    assert heard.get(timeout=5 + POLL_SECONDS) == "quiet"


def test_a_ring_wakes_all_readers_and_one_of_them_has_the_message(
    tmp_path, queue, listen, heard, monkeypatch
):
    # None of them looks by itself.
    monkeypatch.setattr("banatie.jobs.POLL_SECONDS", 600.0)
    for name in ("one", "two", "three"):
        listen(tmp_path, lambda generation_id, name=name: heard.put((name, generation_id)), name)
    ringer, wanted = (
        queue("paint", tmp_path),
        ["paint-one.sock", "paint-three.sock", "paint-two.sock"],
    )
    while sorted(path.name for path in tmp_path.glob("*.sock")) != wanted:
        time.sleep(0.005)
    # One that is dead is in nobody's way.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(tmp_path / "paint-dead.sock"))
    ringer.notify("a")
    woken = [heard.get(timeout=5) for _ in range(3)]
    assert {name for name, _ in woken} == {"one", "two", "three"}
    assert sorted(generation_id for _, generation_id in woken) == ["", "", "a"]
    # So that they can be stopped.
    monkeypatch.setattr("banatie.jobs.POLL_SECONDS", 0.01)
    ringer.notify("b")


def test_the_sockets_of_dead_readers_are_swept(tmp_path):
    for name in ("paint-a.sock", "enhance-a.sock", "paint-b.sock", "paint.sock", "a.lock"):
        (tmp_path / name).touch()
    remove_stale_sockets(tmp_path, ["b"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.lock", "paint-b.sock"]


def test_a_folder_too_long_for_a_socket_works_too(tmp_path, listen, heard):
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    listen(folder).notify("far down")
    assert heard.get(timeout=5 + POLL_SECONDS) == "far down"


def test_an_answer_that_raises_does_not_end_the_listening(tmp_path, listen, heard, caplog):
    def answer(generation_id: str) -> None:
        if generation_id == "bad":
            raise ValueError("on purpose")
        heard.put(generation_id)

    ringer = listen(tmp_path, answer)
    ringer.notify("bad")
    ringer.notify("good")
    assert heard.get(timeout=5) == "good"
    assert "on purpose" in caplog.text


def test_a_queue_that_cannot_be_written_is_only_logged(tmp_path, queue, caplog):
    ringer = queue("paint", tmp_path)
    with sqlite3.connect(tmp_path / "queue.db") as connection:
        connection.execute("DROP TABLE task")
    connection.close()
    ringer.notify("unheard")
    assert "could not be rung for unheard" in caplog.text
