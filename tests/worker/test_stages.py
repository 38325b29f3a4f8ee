"""All stages together: from a prompt to a picture, and what the log says of it."""

from __future__ import annotations

import io
import json
import logging
import threading
import time

import pytest
from PIL import Image

from banatie.logs import JsonLines
from banatie.records import Submission
from tests.worker.conftest import Bench, raising

LOG_HAS_IT = "the worker's log has the traceback"


def test_from_prompt_to_picture(bench, submit, generations):
    made = submit("a red car", template="comic", seed=7, steps=2)
    bench.enhance.run_waiting()
    enhanced = generations.find(made.id)
    assert (enhanced.status, enhanced.stage) == ("pending", "paint")
    assert "red car" in enhanced.prompt
    assert (enhanced.enhancement.template, enhanced.enhancement.model) == ("comic", "language")
    assert bench.notified == [made.id]
    bench.paint.run_waiting()
    done = generations.find(made.id)
    assert (done.status, done.steps, done.step, done.model) == ("success", 2, 2, "sdxl")
    data = bench.files.path(done.image.storage_key).read_bytes()
    assert len(data) == done.image.file_size
    picture = Image.open(io.BytesIO(data))
    assert picture.size == (done.image.width, done.image.height)
    assert picture.text["parameters"].startswith(enhanced.prompt)
    assert "Original prompt: a red car" in picture.text["parameters"]


@pytest.fixture
def json_log():
    """What the program logs, as JSON."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("banatie")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


def test_the_log_tells_a_failed_generation_s_life_without_its_prompt(
    bench, generations, project_id, json_log
):
    made = generations.submit(
        project_id, Submission("a zebra", steps=1), 1, queue_size=9, request_id="r1"
    ).generation
    hook = bench.enhancer._model.register_forward_pre_hook(raising(RuntimeError("broken\ninside")))
    bench.enhance.run_waiting()
    hook.remove()
    hook = bench.painter._pipeline.unet.register_forward_pre_hook(raising(MemoryError()))
    bench.paint.run_waiting()
    hook.remove()
    lines = [json.loads(line) for line in json_log.getvalue().splitlines()]
    assert {(line["generation_id"], line["request_id"]) for line in lines} == {(made.id, "r1")}
    assert [(line["level"], line["message"]) for line in lines] == [
        ("info", "enhancing"),
        ("error", f"failed: Unexpected error: RuntimeError; {LOG_HAS_IT}"),
        ("info", "The language model failed on this prompt; the original prompt is used."),
        ("info", "painting"),
        ("error", f"failed: {generations.find(made.id).error_message}"),
    ]
    assert "broken\ninside" in lines[1]["exception"]
    assert all("seconds" in line for line in lines if line["message"].startswith("failed"))
    assert "zebra" not in json_log.getvalue()


def test_enhancing_and_painting_at_the_same_time(bench, submit, generations):
    made = [submit("a cat", steps=1, seed=seed) for seed in range(4)]
    threads = [
        threading.Thread(target=bench.enhance.run_waiting),
        threading.Thread(target=_paint_until, args=(bench, generations, [g.id for g in made])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {generations.find(g.id).status for g in made} == {"success"}


def _paint_until(bench: Bench, generations, ids: list[str]) -> None:
    deadline = time.monotonic() + 30
    while any(generations.find(each).status != "success" for each in ids):
        assert time.monotonic() < deadline
        bench.paint.run_waiting()
