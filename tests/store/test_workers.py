"""The workers' rows: heartbeats and states."""

from __future__ import annotations

from banatie.store.workers import HEARTBEAT_TIMEOUT_MILLISECONDS, Workers, WorkerState, state_of


def test_a_worker_that_falls_silent_is_gone(database):
    workers = Workers(database)
    state = WorkerState("w", 7, "ready", device="cpu", language_model="l", painting_model="p")
    workers.report(state, 1000)
    assert workers.present(1000 + HEARTBEAT_TIMEOUT_MILLISECONDS - 1) == [state]
    assert workers.present(1000 + HEARTBEAT_TIMEOUT_MILLISECONDS) == []
    workers.forget("w")
    assert workers.present(1001) == []


def test_several_workers_are_told_of_and_only_the_dead_are_forgotten(database):
    workers = Workers(database)
    two = WorkerState("b", 8, "ready", device="cuda:1")
    starting = WorkerState("c", 9, "starting", devices=("cuda:0", "cuda:1", "cuda:2"))
    broken = WorkerState("d", 10, "broken", "No", device="cuda:2")
    one = WorkerState("z", 7, "ready", device="cuda:0")
    assert state_of(workers.present(1)) == "gone"
    for state, known in ((broken, "broken"), (starting, "starting"), (two, "ready")):
        workers.report(state, 1)
        assert state_of(workers.present(1)) == known
    workers.report(one, 1)
    assert workers.present(1)[:2] == [one, two]
    assert {worker.devices for worker in workers.present(1)} == {None, starting.devices}
    assert workers.forget_dead(lambda worker_id: worker_id in ("b", "z")) == 2
    assert workers.present(1) == [one, two]


def test_a_worker_that_lives_without_a_heartbeat_is_broken_and_named(database):
    workers = Workers(database)
    for number, seen_at in enumerate((1_000, 2_000, 50_000)):
        workers.report(WorkerState(f"w{number}", 40 + number, "ready"), seen_at)
    [silent] = workers.silent(60_000, lambda worker_id: worker_id != "w0")
    assert (silent.id, silent.state) == ("w1", "broken")
    assert silent.reason == "The worker (process 41) has not answered for 58 s"
