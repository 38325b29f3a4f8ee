"""The enhancement stage: what becomes of a prompt, also when the language model fails or hangs."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest
import torch

from banatie.errors import ServiceUnavailable
from banatie.worker import enhance
from tests.worker.conftest import raising


def test_without_a_language_model_the_prompt_stays(make_bench, submit, generations):
    bench = make_bench(enhancer=None)
    made = submit("a cat")
    bench.enhance.run_waiting()
    spared = generations.find(made.id)
    assert (spared.prompt, spared.stage, spared.enhancement) == ("a cat", "paint", None)
    assert "original prompt" in spared.warnings[0]


def test_a_prompt_with_weights_is_left_alone(bench, submit, generations):
    made = submit("a (red:1.3) cat", prompt_syntax="webui")
    bench.enhance.run_waiting()
    spared = generations.find(made.id)
    assert (spared.prompt, spared.stage) == ("a (red:1.3) cat", "paint")
    assert "it was not enhanced" in spared.warnings[0]


def test_an_enhanced_prompt_has_no_weights_of_its_own(bench, submit, generations, monkeypatch):
    asked = []
    enhance_text = type(bench.enhancer).enhance

    def with_brackets(self, prompt, *arguments, **options):
        asked.append(prompt)
        done = enhance_text(self, prompt, *arguments, **options)
        return dataclasses.replace(done, text="a cat (red)", warning=None)

    monkeypatch.setattr(type(bench.enhancer), "enhance", with_brackets)
    made = submit(r"a \(red\) cat", prompt_syntax="webui")
    bench.enhance.run_waiting()
    assert asked == ["a (red) cat"]
    assert generations.find(made.id).prompt == r"a cat \(red\)"


def test_a_language_model_that_raises_spares_the_prompt(bench, submit, generations, caplog):
    made = submit("a cat")
    hook = bench.enhancer._model.register_forward_pre_hook(raising(RuntimeError("broken inside")))
    try:
        bench.enhance.run_waiting()
    finally:
        hook.remove()
    spared = generations.find(made.id)
    assert (spared.prompt, spared.stage) == ("a cat", "paint")
    assert "original prompt" in spared.warnings[0]
    assert "broken inside" in caplog.text
    assert "broken inside" not in spared.warnings[0]


def test_a_language_model_without_memory_fails_the_enhancement_alone(bench, submit, generations):
    made = submit("a cat", steps=1)
    error = torch.OutOfMemoryError("CUDA out of memory")
    hook = bench.enhancer._model.register_forward_pre_hook(raising(error))
    bench.enhance.run_waiting()
    hook.remove()
    bench.paint.run_waiting()
    done = generations.find(made.id)
    assert (done.status, done.prompt) == ("success", "a cat")
    assert "original prompt" in done.warnings[0]


def test_a_database_that_is_away_for_a_moment_costs_no_enhancement(
    bench, submit, generations, claims, monkeypatch, caplog
):
    made = submit("a cat")

    def unreachable(generation_id: str) -> bool:
        raise ServiceUnavailable("The database cannot be reached at the moment")

    with monkeypatch.context() as away:
        away.setattr(claims, "holds", unreachable)
        bench.enhance.run_waiting()
    assert "requeued: The database cannot be reached" in caplog.text
    dropped = generations.find(made.id)
    assert (dropped.stage, dropped.prompt, dropped.warnings) == ("enhance", "a cat", ())
    assert bench.notified == []
    assert bench.rows.requeue_dropped() == 1
    bench.enhance.run_waiting()
    enhanced = generations.find(made.id)
    assert (enhanced.stage, enhanced.warnings) == ("paint", ())
    assert enhanced.enhancement.model == "language"


def test_an_enhancement_that_cannot_be_recorded_is_requeued(
    bench, submit, generations, claims, monkeypatch, caplog
):
    made = submit("a cat")

    def unreachable(*_: object, **__: object) -> bool:
        raise ServiceUnavailable("The database cannot be reached at the moment")

    with monkeypatch.context() as away:
        away.setattr(claims, "finish_enhancement", unreachable)
        bench.enhance.run_waiting()
    assert "requeued: The database cannot be reached" in caplog.text
    assert bench.rows.requeue_dropped() == 1
    bench.enhance.run_waiting()
    assert generations.find(made.id).enhancement.model == "language"


class Hang:
    """A language model that hangs on its first prompt until it is let go."""

    def __init__(self, bench) -> None:
        self.began, self.goes_on = threading.Event(), threading.Event()
        self._hook = bench.enhancer._model.register_forward_pre_hook(self._wait)
        self.thread = threading.Thread(target=bench.enhance.run_waiting)
        self.thread.start()
        assert self.began.wait(20)

    def end(self) -> None:
        self.goes_on.set()
        self.thread.join(20)
        self._hook.remove()
        assert not self.thread.is_alive()

    def _wait(self, *_: object) -> None:
        self.began.set()
        assert self.goes_on.wait(20)


@pytest.fixture
def hang(make_bench, submit, monkeypatch):
    """Makes a bench whose language model hangs on a prompt, past its time limit from the start."""
    started: list[Hang] = []
    monkeypatch.setattr(enhance, "HUNG_SECONDS", 0.0)

    def hang(*prompts: str):
        bench = make_bench(**{"enhancement.time_limit": 0})
        made = [submit(prompt, now=number) for number, prompt in enumerate(prompts, 1)]
        started.append(Hang(bench))
        return bench, started[-1], made

    yield hang
    for each in started:
        each.end()


def test_a_prompt_that_the_language_model_hangs_on_is_painted_as_it_is(
    hang, generations, claims, caplog
):
    bench, hung, [made] = hang("a cat")
    assert bench.enhance.recover_hung()
    spared = generations.find(made.id)
    assert (spared.prompt, spared.stage) == ("a cat", "paint")
    assert "hung" in spared.warnings[0]
    # Should the thread come back after all, it does not touch a row that is being painted.
    assert claims.claim("paint", 5).id == made.id
    hung.end()
    assert generations.find(made.id).status == "processing"
    assert generations.find(made.id).warnings == spared.warnings


def test_a_language_model_that_hangs_on_a_cancelled_prompt_is_found_too(
    hang, generations, project_id
):
    bench, _, [made] = hang("a cat")
    generations.cancel(project_id, made.id, 5)
    assert bench.enhance.recover_hung()
    assert generations.find(made.id).error_message == "Cancelled"


def test_a_prompt_that_is_finished_while_it_is_checked_does_not_hang(
    hang, generations, monkeypatch
):
    bench, slow, [made] = hang("a cat")
    monotonic = time.monotonic

    def finish_first() -> float:
        # The thread that checks has read what is running, and compares the time next.
        if threading.current_thread() is threading.main_thread():
            monkeypatch.setattr(time, "monotonic", monotonic)
            slow.end()
        return monotonic()

    monkeypatch.setattr(time, "monotonic", finish_first)
    assert not bench.enhance.recover_hung()
    assert "more than 0 seconds" in generations.find(made.id).warnings[0]


def test_a_hung_prompt_whose_row_cannot_be_reached_is_tried_again(
    hang, generations, claims, monkeypatch
):
    bench, _, [made] = hang("a cat")

    def unreachable(*_: object, **__: object) -> bool:
        raise ServiceUnavailable("The database cannot be reached at the moment")

    with monkeypatch.context() as away:
        away.setattr(claims, "finish_enhancement", unreachable)
        with pytest.raises(ServiceUnavailable):
            bench.enhance.recover_hung()
    assert bench.enhance.recover_hung()
    assert "hung" in generations.find(made.id).warnings[0]
