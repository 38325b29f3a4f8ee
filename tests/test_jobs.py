"""The job queues: messages arrive, at once or by polling, and a broken queue loses nothing."""

from __future__ import annotations

import socket
import sqlite3
from pathlib import Path
from queue import Empty, Queue

import pytest
from huey.storage import SqliteStorage

from banatie.jobs import POLL_SECONDS, JobQueue, remove_stale_sockets
from tests.support.polling import wait_until


@pytest.fixture
def handled() -> Queue:
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
def listen(handled: Queue):
    """Starts a consumer on a folder's paint queue; stops them all at the end."""
    started = []

    def listen(folder: Path, handler=handled.put, reader: str = "reader") -> JobQueue:
        queue = JobQueue("paint", folder, handler, reader)
        consumer = queue.consumer()
        consumer.start()
        started.append((queue, consumer))
        return queue

    yield listen
    for queue, consumer in started:
        consumer.stop(graceful=True)
        queue.close()


def test_a_message_reaches_another_instance(tmp_path, queue, listen, handled):
    listen(tmp_path)
    sender = queue("paint", tmp_path)
    for generation_id in ("one", "two"):
        sender.notify(generation_id)
    assert [handled.get(timeout=5), handled.get(timeout=5)] == ["one", "two"]


def test_a_message_before_a_consumer_starts_is_kept(tmp_path, queue, listen, handled):
    queue("paint", tmp_path).notify("early")
    listen(tmp_path)
    assert handled.get(timeout=5) == "early"


def test_a_stage_gets_its_own_messages_alone(tmp_path, queue, listen, handled):
    listen(tmp_path)
    queue("enhance", tmp_path).notify("not for painters")
    queue("paint", tmp_path).notify("for painters")
    assert handled.get(timeout=5) == "for painters"


def test_without_a_datagram_the_reader_polls(tmp_path, queue, listen, handled, monkeypatch):
    monkeypatch.delattr(socket, "AF_UNIX")
    listen(tmp_path)
    queue("paint", tmp_path).notify("quiet")
    assert handled.get(timeout=5 + POLL_SECONDS) == "quiet"


def test_a_datagram_that_is_lost_costs_a_few_seconds(tmp_path, queue, listen, handled, monkeypatch):
    monkeypatch.setattr("banatie.jobs.IDLE_SECONDS", 0.05)
    listen(tmp_path)
    monkeypatch.delattr(socket, "AF_UNIX")
    queue("paint", tmp_path).notify("quiet")
    assert handled.get(timeout=5) == "quiet"


@pytest.mark.parametrize("has_sockets", [True, False])
def test_an_idle_reader_locks_nothing_and_hardly_reads(
    tmp_path, queue, listen, handled, monkeypatch, has_sockets
):
    if not has_sockets:
        monkeypatch.delattr(socket, "AF_UNIX")
    statements: list[str] = []
    create_connection = SqliteStorage._create_connection

    def traced(storage: SqliteStorage) -> sqlite3.Connection:
        connection = create_connection(storage)
        connection.set_trace_callback(lambda sql: statements.append(sql.split()[0].lower()))
        return connection

    monkeypatch.setattr(SqliteStorage, "_create_connection", traced)
    sender = listen(tmp_path)
    wait_until(lambda: "select" in statements, "the first poll")
    statements.clear()
    with pytest.raises(Empty):
        handled.get(timeout=1)
    polls = 0 if has_sockets else int(1 / POLL_SECONDS)
    assert statements in (["select"] * count for count in range(1 + polls + 1))
    # It was reading all the while.
    sender.notify("a")
    assert handled.get(timeout=5) == "a"


def test_a_consumer_stops_while_its_reader_sleeps(tmp_path, monkeypatch):
    monkeypatch.setattr("banatie.jobs.IDLE_SECONDS", 600.0)
    handled: list[str] = []
    queue = JobQueue("paint", tmp_path, handled.append)
    consumer = queue.consumer()
    consumer.start()
    wait_until((tmp_path / "paint-reader.sock").exists, "the reader's socket")
    consumer.stop()
    for _, thread in consumer.worker_threads:
        thread.join(5)
        assert not thread.is_alive()
    assert handled == []
    queue.close()


def test_a_message_wakes_all_readers_and_one_of_them_has_it(
    tmp_path, queue, listen, handled, monkeypatch
):
    # None of them reads the queue by itself.
    monkeypatch.setattr("banatie.jobs.IDLE_SECONDS", 600.0)
    for name in ("one", "two", "three"):
        listen(tmp_path, lambda generation_id, name=name: handled.put((name, generation_id)), name)
    sender = queue("paint", tmp_path)
    wanted = ["paint-one.sock", "paint-three.sock", "paint-two.sock"]
    wait_until(
        lambda: sorted(path.name for path in tmp_path.glob("*.sock")) == wanted, "all sockets"
    )
    # A dead one does no harm.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(tmp_path / "paint-dead.sock"))
    sender.notify("a")
    woken = [handled.get(timeout=5) for _ in range(3)]
    assert {name for name, _ in woken} == {"one", "two", "three"}
    assert sorted(generation_id for _, generation_id in woken) == ["", "", "a"]


def test_the_sockets_of_dead_readers_are_removed(tmp_path):
    for name in ("paint-a.sock", "enhance-a.sock", "paint-b.sock", "paint.sock", "a.lock"):
        (tmp_path / name).touch()
    remove_stale_sockets(tmp_path, ["b"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.lock", "paint-b.sock"]


def test_a_folder_too_long_for_a_socket_works_too(tmp_path, listen, handled):
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    listen(folder).notify("far down")
    assert handled.get(timeout=5 + POLL_SECONDS) == "far down"


def test_where_a_socket_cannot_be_reached_the_reader_polls(
    tmp_path, queue, listen, handled, monkeypatch
):
    class Unreachable(socket.socket):
        def sendto(self, *_: object) -> int:
            raise ConnectionRefusedError

    monkeypatch.setattr(socket, "socket", Unreachable)
    monkeypatch.setattr("banatie.jobs.IDLE_SECONDS", 600.0)
    listen(tmp_path)
    queue("paint", tmp_path).notify("quiet")
    assert handled.get(timeout=5 + POLL_SECONDS) == "quiet"


def test_a_handler_that_raises_does_not_end_the_consumer(tmp_path, listen, handled, caplog):
    def handler(generation_id: str) -> None:
        if generation_id == "bad":
            raise ValueError("on purpose")
        handled.put(generation_id)

    sender = listen(tmp_path, handler)
    sender.notify("bad")
    sender.notify("good")
    assert handled.get(timeout=5) == "good"
    assert "on purpose" in caplog.text


def test_a_queue_that_cannot_be_written_is_only_logged(tmp_path, queue, caplog):
    sender = queue("paint", tmp_path)
    with sqlite3.connect(tmp_path / "queue.db") as connection:
        connection.execute("DROP TABLE task")
    connection.close()
    sender.notify("unheard")
    assert "could not notify the workers of unheard" in caplog.text
