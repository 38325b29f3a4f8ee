"""One prompt, one picture, and every way that either can go wrong, with tiny real models."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from banatie.config import load_config
from banatie.devices.memory_plan import PlacementPreferences, Plan
from banatie.devices.runtime import choose_runtime
from banatie.enhancement.enhancer import Enhancer
from banatie.errors import ServiceUnavailable
from banatie.logs import JsonLines
from banatie.models.catalog import Catalog
from banatie.models.import_file import import_model
from banatie.painting.painter import Painter
from banatie.records import LoraUse, Submission
from banatie.store.files import Files
from banatie.worker.placement import ModelPlacement
from banatie.worker.runner import Runner
from tests.support.single_files import write_lora
from tests.support.tiny_models import make_tiny_language_model, make_tiny_sdxl

torch.set_num_threads(1)

RUNTIME = choose_runtime("cpu")


@dataclasses.dataclass
class Bench:
    """A runner and what it works on."""

    runner: Runner
    painter: Painter
    enhancer: Enhancer
    files: Files
    notified: list[str]

    def stored(self) -> list[Path]:
        return [path for path in self.files.folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_tiny_sdxl(folder / "sdxl")
    make_tiny_language_model(folder / "language")
    catalog = Catalog(folder)
    painting = catalog.painting_model("sdxl")
    placement = ModelPlacement.load(
        painting, catalog.language_model("language"), RUNTIME, PlacementPreferences()
    )
    return painting, placement, catalog


@pytest.fixture
def make_runner(models, claims, keys, tmp_path):
    painting, placement, catalog = models
    files = Files(tmp_path / "storage")

    def make_runner(**replaced: object) -> Bench:
        notified: list[str] = []
        batch = replaced.pop("batch", 1)
        plan = dataclasses.replace(placement.plan, batch=batch)
        enhancer = replaced.pop("enhancer", placement.enhancer)
        own = ModelPlacement(plan, replaced.pop("below", ()), RUNTIME, placement.painter, enhancer)
        runner = Runner(
            claims,
            files,
            own,
            painting,
            keys.organization_of,
            notified.append,
            load_config(None, {}, replaced),
            lambda: 1_700_000_000_000,
            catalog,
        )
        return Bench(runner, placement.painter, placement.enhancer, files, notified)

    return make_runner


@pytest.fixture
def bench(make_runner) -> Bench:
    return make_runner()


def test_from_prompt_to_picture(bench, submit, generations):
    made = submit("a red car", template="comic", seed=7, steps=2)
    bench.runner.enhance_waiting()
    enhanced = generations.find(made.id)
    assert (enhanced.status, enhanced.stage) == ("pending", "paint")
    assert "red car" in enhanced.prompt
    assert (enhanced.enhancement.template, enhanced.enhancement.model) == ("comic", "language")
    assert bench.notified == [made.id]
    bench.runner.paint_waiting()
    done = generations.find(made.id)
    assert (done.status, done.steps, done.step, done.model) == ("success", 2, 2, "sdxl")
    data = bench.files.path(done.image.storage_key).read_bytes()
    assert len(data) == done.image.file_size
    picture = Image.open(io.BytesIO(data))
    assert picture.size == (done.image.width, done.image.height)
    assert picture.text["parameters"].startswith(enhanced.prompt)
    assert "Original prompt: a red car" in picture.text["parameters"]


def test_each_ratio_has_the_models_size(bench, models, submit, generations):
    made = [submit(auto_enhance=False, steps=1, aspect_ratio=r) for r in models[0].sizes]
    bench.runner.paint_waiting()
    for generation in made:
        image = generations.find(generation.id).image
        assert (image.width, image.height) == models[0].sizes[generation.aspect_ratio]


def test_a_picture_is_painted_with_its_loras_and_says_so(bench, models, submit, generations):
    folder = models[0].folder.parent
    layer = "unet.mid_block.attentions.0.proj_in"
    write_lora(folder / "ink.safetensors", {layer: torch.Size((16, 16))}, rank=4, alpha=None)
    import_model(folder / "ink.safetensors", folder, lambda line: None)
    loras = (LoraUse("ink", -0.5),)
    made = [
        submit("a car", auto_enhance=False, steps=1, seed=7, loras=use) for use in ((), loras, ())
    ]
    bench.runner.paint_waiting()
    pictures = []
    for generation in made:
        done = generations.find(generation.id)
        assert (done.status, done.loras) == ("success", generation.loras)
        pictures.append(Image.open(bench.files.path(done.image.storage_key)))
    plain, inked, again = pictures
    assert plain.tobytes() == again.tobytes() != inked.tobytes()
    assert inked.text["parameters"].startswith("a car <lora:ink:-0.5>\nSteps: 1,")
    assert plain.text["parameters"].startswith("a car\nSteps: 1,")


def test_a_lora_that_is_gone_fails_its_picture_alone(bench, submit, generations):
    gone = submit(auto_enhance=False, steps=1, loras=(LoraUse("gone"),))
    after = submit(auto_enhance=False, steps=1)
    bench.runner.paint_waiting()
    assert "no LoRA called 'gone' is installed" in generations.find(gone.id).error_message
    assert generations.find(after.id).status == "success"


def test_metadata_can_be_left_out(make_runner, submit, generations):
    bench = make_runner(**{"storage.metadata": False})
    made = submit(auto_enhance=False, steps=1)
    bench.runner.paint_waiting()
    done = generations.find(made.id)
    with Image.open(bench.files.path(done.image.storage_key)) as picture:
        assert picture.info == {}


def test_without_a_language_model_the_prompt_stays(make_runner, submit, generations):
    bench = make_runner(enhancer=None)
    made = submit("a cat")
    bench.runner.enhance_waiting()
    spared = generations.find(made.id)
    assert (spared.prompt, spared.stage, spared.enhancement) == ("a cat", "paint", None)
    assert "original prompt" in spared.warnings[0]


def test_a_language_model_that_raises_spares_the_prompt(bench, submit, generations, caplog):
    made = submit("a cat")
    hook = bench.enhancer._model.register_forward_pre_hook(_raise(RuntimeError("broken inside")))
    try:
        bench.runner.enhance_waiting()
    finally:
        hook.remove()
    spared = generations.find(made.id)
    assert (spared.prompt, spared.stage) == ("a cat", "paint")
    assert "original prompt" in spared.warnings[0]
    assert "broken inside" in caplog.text
    assert "broken inside" not in spared.warnings[0]


def test_an_unforeseen_failure_ends_one_row_and_tells_no_insides(
    bench, submit, generations, caplog
):
    bad, good = (submit(auto_enhance=False, steps=1) for _ in range(2))
    unet = bench.painter._pipeline.unet
    hooks = []
    hooks.append(unet.register_forward_pre_hook(_raise(ValueError("/secret/path"), hooks)))
    bench.runner.paint_waiting()
    failed = generations.find(bad.id)
    assert failed.status == "failed"
    assert "ValueError" in failed.error_message
    assert "secret" not in failed.error_message
    assert "/secret/path" in caplog.text
    assert generations.find(good.id).status == "success"


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
    hook = bench.enhancer._model.register_forward_pre_hook(_raise(RuntimeError("broken\ninside")))
    bench.runner.enhance_waiting()
    hook.remove()
    hook = bench.painter._pipeline.unet.register_forward_pre_hook(_raise(MemoryError()))
    bench.runner.paint_waiting()
    hook.remove()
    lines = [json.loads(line) for line in json_log.getvalue().splitlines()]
    assert {(line["generation_id"], line["request_id"]) for line in lines} == {(made.id, "r1")}
    assert [(line["level"], line["message"]) for line in lines] == [
        ("info", "enhancing"),
        ("error", "failed"),
        ("info", "The language model failed on this prompt; the original prompt is used."),
        ("info", "painting"),
        ("error", f"failed: {generations.find(made.id).error_message}"),
    ]
    assert "broken\ninside" in lines[1]["exception"]
    assert all("seconds" in line for line in lines if line["message"].startswith("failed"))
    assert "zebra" not in json_log.getvalue()


def test_out_of_memory_ends_one_row_with_what_to_do(bench, submit, generations):
    bad, good = (submit(auto_enhance=False, steps=1) for _ in range(2))
    hooks = []
    error = torch.OutOfMemoryError("CUDA out of memory")
    hooks.append(bench.painter._pipeline.unet.register_forward_pre_hook(_raise(error, hooks)))
    bench.runner.paint_waiting()
    assert "memory" in generations.find(bad.id).error_message
    assert generations.find(good.id).status == "success"


def test_out_of_memory_goes_a_rung_down_and_paints_it_again(
    make_runner, submit, generations, caplog
):
    bench = make_runner(below=(Plan(tiled=True),))
    made = [submit(auto_enhance=False, steps=1) for _ in range(2)]
    hooks = []
    error = torch.OutOfMemoryError("CUDA out of memory")
    unet = bench.painter._pipeline.unet
    hooks.append(unet.register_forward_pre_hook(_raise(error, hooks)))
    bench.runner.paint_waiting()
    bench.painter._pipeline.vae.disable_tiling()
    assert {generations.find(each.id).status for each in made} == {"success"}
    assert caplog.text.count("out of memory; until the next start:") == 1


def test_out_of_memory_in_a_batch_paints_one_by_one(make_runner, submit, generations):
    bench = make_runner(batch=4)
    made = [submit(auto_enhance=False, steps=1, seed=seed) for seed in range(4)]
    painted = []

    def run_out(unet: torch.nn.Module, inputs: tuple) -> None:
        painted.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = bench.painter._pipeline.unet.register_forward_pre_hook(run_out)
    bench.runner.paint_waiting()
    hook.remove()
    assert painted == [8, 2, 2, 2, 2]
    assert {generations.find(each.id).status for each in made} == {"success"}


def test_a_language_model_without_memory_fails_the_enhancement_alone(bench, submit, generations):
    made = submit("a cat", steps=1)
    error = torch.OutOfMemoryError("CUDA out of memory")
    hook = bench.enhancer._model.register_forward_pre_hook(_raise(error))
    bench.runner.enhance_waiting()
    hook.remove()
    bench.runner.paint_waiting()
    done = generations.find(made.id)
    assert (done.status, done.prompt) == ("success", "a cat")
    assert "original prompt" in done.warnings[0]


def test_alike_rows_are_painted_together(make_runner, submit, generations):
    bench = make_runner(batch=3)
    long = "a red car, " * 60
    made = [
        *(submit(auto_enhance=False, steps=1, seed=seed) for seed in range(4)),
        submit(auto_enhance=False, steps=1, aspect_ratio="9:16"),
        submit(auto_enhance=False, steps=2),
        submit(long, auto_enhance=False, steps=2),
    ]
    painted = []

    def look(unet: torch.nn.Module, inputs: tuple) -> None:
        painted.append((len(inputs[0]) // 2, tuple(inputs[0].shape[2:])))

    hook = bench.painter._pipeline.unet.register_forward_pre_hook(look)
    bench.runner.paint_waiting()
    hook.remove()
    square, tall = (32, 32), painted[2][1]
    # A longer text is painted by itself, and each of the last two takes two steps.
    alone = [(1, square)] * 4
    assert painted == [(3, square), (1, square), (1, tall), *alone]
    done = [generations.find(each.id) for each in made]
    assert {each.status for each in done} == {"success"}
    assert len({bench.files.path(each.image.storage_key).read_bytes() for each in done}) == 7


def test_a_batch_that_cannot_be_taken_is_painted_one_by_one(
    make_runner, submit, generations, claims, monkeypatch
):
    bench = make_runner(batch=3)
    made = [submit(auto_enhance=False, steps=1, seed=seed) for seed in range(2)]

    def locked(*_: object) -> None:
        raise ServiceUnavailable("The database is locked")

    monkeypatch.setattr(claims, "claim_like", locked)
    bench.runner.paint_waiting()
    assert {generations.find(each.id).status for each in made} == {"success"}


def test_of_a_batch_a_cancelled_row_is_left_out_and_the_others_painted(
    make_runner, submit, generations, project_id
):
    bench = make_runner(batch=3)
    made = [submit(auto_enhance=False, steps=5, seed=seed) for seed in range(3)]

    def cancel(*_: object) -> None:
        generations.cancel(project_id, made[1].id, 5)

    hook = bench.painter._pipeline.unet.register_forward_hook(cancel)
    bench.runner.paint_waiting()
    hook.remove()
    found = [generations.find(each.id) for each in made]
    assert [each.status for each in found] == ["success", "failed", "success"]
    assert found[1].error_message == "Cancelled"
    assert len(bench.stored()) == 2


def test_a_picture_is_saved_while_the_next_is_painted(bench, submit, generations, monkeypatch):
    made = [submit(auto_enhance=False, steps=1, seed=seed) for seed in range(2)]
    next_is_painted = threading.Event()
    save, order = bench.files.save, []

    def save_late(storage_key: str, data: bytes) -> None:
        if not order:
            assert next_is_painted.wait(20)
            # Meanwhile it is neither lost nor taken for one that was dropped.
            assert bench.runner.requeue_dropped() == 0
        order.append(storage_key)
        save(storage_key, data)

    def painted(*_: object) -> None:
        if generations.find(made[1].id).status == "processing":
            next_is_painted.set()

    monkeypatch.setattr(bench.files, "save", save_late)
    hook = bench.painter._pipeline.unet.register_forward_hook(painted)
    bench.runner.paint_waiting()
    hook.remove()
    assert {generations.find(each.id).status for each in made} == {"success"}
    assert len(order) == 2


def test_cancelling_stops_within_a_step(bench, submit, generations, project_id):
    made = submit(auto_enhance=False, steps=50)
    seen = []

    def cancel_at_the_third(*_: object) -> None:
        seen.append(1)
        if len(seen) == 3:
            generations.cancel(project_id, made.id, 5)

    hook = bench.painter._pipeline.unet.register_forward_hook(cancel_at_the_third)
    try:
        bench.runner.paint_waiting()
    finally:
        hook.remove()
    cancelled = generations.find(made.id)
    assert (cancelled.status, cancelled.error_message) == ("failed", "Cancelled")
    assert len(seen) == 3
    assert bench.stored() == []


def test_a_row_deleted_while_its_file_was_written_leaves_no_file(
    bench, submit, generations, project_id, monkeypatch
):
    made = submit(auto_enhance=False, steps=1)
    save = bench.files.save

    def save_and_delete(storage_key: str, data: bytes) -> None:
        save(storage_key, data)
        generations.delete(project_id, made.id)

    monkeypatch.setattr(bench.files, "save", save_and_delete)
    bench.runner.paint_waiting()
    assert bench.stored() == []


def test_stopping_leaves_the_row_to_be_taken_back(bench, submit, generations, claims):
    made = submit(auto_enhance=False, steps=50)
    hook = bench.painter._pipeline.unet.register_forward_hook(
        lambda *_: bench.runner.stopping.set()
    )
    try:
        bench.runner.paint_waiting()
    finally:
        hook.remove()
    assert generations.find(made.id).status == "processing"
    assert claims.release_claims(1) == 1
    assert generations.find(made.id).status == "pending"


def test_enhancing_and_painting_at_the_same_time(bench, submit, generations):
    made = [submit("a cat", steps=1, seed=seed) for seed in range(4)]
    threads = [
        threading.Thread(target=bench.runner.enhance_waiting),
        threading.Thread(target=_paint_until, args=(bench, generations, [g.id for g in made])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {generations.find(g.id).status for g in made} == {"success"}


def _raise(error: Exception, hooks: list | None = None):
    """A module hook that raises once (with `hooks`, it takes itself off first)."""

    def raise_error(*_: object) -> None:
        if hooks:
            hooks.pop().remove()
        raise error

    return raise_error


def _paint_until(bench: Bench, generations, ids: list[str]) -> None:
    while any(generations.find(each).status != "success" for each in ids):
        bench.runner.paint_waiting()
