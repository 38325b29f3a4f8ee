"""Who has the device when: turns, going a rung down, and what stays; with tiny real models."""

from __future__ import annotations

import dataclasses
import logging
import threading

import psutil
import pytest
import torch
from transformers import LlamaForCausalLM

from banatie.errors import ModelBroken
from banatie.inference.catalog import Catalog
from banatie.inference.painter import PaintJob
from banatie.inference.plan import Plan, Wanted
from banatie.inference.residency import RAN_OUT, Residency
from banatie.inference.room import readable
from banatie.inference.runtime import Runtime
from tests.tiny_models import make_tiny_language_model, make_tiny_sdxl

RUNTIME = Runtime("cpu", torch.float32, torch.float32)
WANTED = Wanted()
JOB = PaintJob("a red cat", "", 32, 32, 2, 5.0, 7)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("models")
    make_tiny_sdxl(folder / "sdxl")
    make_tiny_language_model(folder / "language")
    return Catalog(folder)


@pytest.fixture
def load(catalog: Catalog):
    def load(**wanted: object) -> Residency:
        language = catalog.language_model("language")
        return Residency.load(catalog.painting_model("sdxl"), language, RUNTIME, WANTED, **wanted)

    return load


@pytest.fixture
def on(load):
    """A residency that follows a plan, with rungs below it."""
    loaded = load()

    def on(plan: Plan, *below: Plan) -> Residency:
        loaded.painter.arrange(plan)
        return Residency(plan, below, RUNTIME, loaded.painter, loaded.enhancer)

    return on


def paint(residency: Residency) -> bytes:
    with residency.painting():
        return residency.painter.paint(JOB, lambda step, steps: None).tobytes()


def write(residency: Residency) -> str:
    with residency.writing():
        return residency.enhancer.enhance(
            "a red cat", "general", seed=1, count_tokens=len, time_limit=30
        ).text


def test_a_small_machine_s_models_are_planned_and_loaded(load, caplog) -> None:
    caplog.set_level(logging.INFO, logger="banatie")
    residency = load()
    assert (residency.plan.painter, residency.plan.language) == ("whole", "device")
    assert 0 < residency.plan.needed < 100_000_000
    assert f"{residency.plan}: it takes {readable(residency.plan.needed)} of " in caplog.text
    assert write(residency)
    assert paint(residency)


def test_a_cpu_without_room_for_float32_paints_in_bfloat16(load, monkeypatch) -> None:
    needed = load().plan.needed
    free = psutil.virtual_memory()._replace(available=int(needed * 0.4))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    residency = load()
    assert residency.painter._pipeline.unet.dtype == torch.bfloat16
    assert residency.plan.needed < needed
    assert paint(residency)


def test_a_broken_language_model_is_left_out(catalog, tmp_path, caplog) -> None:
    make_tiny_language_model(tmp_path / "bad")
    model = Catalog(tmp_path).language_model("bad")
    (tmp_path / "bad" / "tokenizer.json").write_text("{}", "utf-8")
    residency = Residency.load(catalog.painting_model("sdxl"), model, RUNTIME, WANTED)
    assert residency.enhancer is None
    assert "no prompt will be enhanced" in caplog.text
    assert paint(residency)


def test_a_language_model_that_comes_late_is_heard(catalog, tmp_path, caplog) -> None:
    model = catalog.painting_model("sdxl")
    residency = Residency.load(model, None, RUNTIME, WANTED)
    assert residency.enhancer is None
    make_tiny_language_model(tmp_path / "bad")
    broken = Catalog(tmp_path).language_model("bad")
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"none")
    residency.adopt(broken)
    assert residency.enhancer is None
    assert "no prompt will be enhanced" in caplog.text
    residency.adopt(catalog.language_model("language"))
    assert residency.enhancer.name == "language"
    assert residency.plan.language == "device"
    assert write(residency)
    assert paint(residency)


def test_a_language_model_that_finds_no_memory_is_left_out(load, monkeypatch, caplog) -> None:
    def run_out(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 6.00 GiB.")

    monkeypatch.setattr(LlamaForCausalLM, "to", run_out)
    residency = load()
    assert residency.enhancer is None
    assert "no prompt will be enhanced: CUDA out of memory" in caplog.text
    assert paint(residency)


def test_a_broken_painting_model_is_said(catalog, tmp_path) -> None:
    make_tiny_sdxl(tmp_path / "bad")
    (tmp_path / "bad" / "unet" / "config.json").write_text("{", "utf-8")
    with pytest.raises(ModelBroken, match=r"config\.json"):
        Residency.load(Catalog(tmp_path).painting_model("bad"), None, RUNTIME, WANTED)


def test_going_down_changes_the_plan_but_not_the_picture(on, caplog) -> None:
    first = Plan()
    below = (Plan(language="cpu"), Plan("encoders-aside", "cpu"), Plan("streamed", "cpu"))
    residency = on(first, *below)
    expected = paint(residency)
    for plan in below:
        assert residency.step_down()
        assert residency.plan == dataclasses.replace(plan, why=RAN_OUT)
        assert f"out of memory; until the next start: {plan}" in caplog.text
        assert paint(residency) == expected
        assert write(residency)
    assert not residency.step_down()
    assert residency.plan.painter == "streamed"


def test_tiles_and_eight_bits_give_nearly_the_same_picture(on) -> None:
    residency = on(Plan(), Plan("streamed", "cpu"), Plan("streamed-fp8", "cpu", tiled=True))
    whole = torch.frombuffer(bytearray(paint(residency)), dtype=torch.uint8).int()
    while residency.step_down():
        pass
    frugal = torch.frombuffer(bytearray(paint(residency)), dtype=torch.uint8).int()
    assert 0 < (whole - frugal).abs().float().mean() < 8
    stored = {weight.dtype for weight in residency.painter._pipeline.unet.parameters()}
    assert torch.float8_e4m3fn in stored


def test_a_turn_without_a_language_model_is_nobody_s(on) -> None:
    residency = on(Plan(language="turns"))
    residency.enhancer = None
    with residency.writing(), residency.painting():
        assert paint(residency)


def test_in_turns_nobody_is_starved(on) -> None:
    residency = on(Plan(language="turns"))
    order: list[str] = []
    writer_waits = threading.Event()

    def write_one() -> None:
        writer_waits.set()
        with residency.writing():
            order.append("written")

    writer = threading.Thread(target=write_one)
    for number in range(5):
        with residency.painting():
            if number == 1:
                writer.start()
                writer_waits.wait()
                while len(residency._turn._line) < 2:
                    pass
            order.append("painted")
    writer.join()
    assert order.index("written") == 2


def test_without_turns_nobody_waits(on) -> None:
    residency = on(Plan())
    with residency.painting():
        writer = threading.Thread(target=write, args=(residency,))
        writer.start()
        writer.join(20)
        assert not writer.is_alive()


def test_a_language_model_that_was_sent_away_stays_away(on) -> None:
    residency = on(Plan(language="cpu"), Plan(tiled=True))
    assert residency.step_down()
    assert (residency.plan.language, residency.plan.tiled) == ("cpu", True)


def test_a_language_model_on_the_cpu_cannot_be_sent_further(on) -> None:
    residency = on(Plan())
    with residency.writing():
        assert not residency.send_language_away()
    assert residency.plan == Plan()
