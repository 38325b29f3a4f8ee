"""Where the models are: swapping, stepping down, and what stays; with tiny real models."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import threading
from pathlib import Path

import psutil
import pytest
import torch
from transformers import LlamaForCausalLM

from banatie.devices.memory_plan import PlacementPreferences, Plan
from banatie.devices.runtime import Runtime
from banatie.errors import ModelBroken
from banatie.models.catalog import Catalog
from banatie.models.disk_space import format_bytes
from banatie.painting.painter import PaintJob
from banatie.worker.placement import RAN_OUT_OF_MEMORY, ModelPlacement
from tests.support.polling import wait_until

RUNTIME = Runtime("cpu", torch.float32, torch.float32)
PREFERENCES = PlacementPreferences()
JOB = PaintJob("a red cat", "", 32, 32, 2, 5.0, 7)


@pytest.fixture(scope="module")
def catalog(model_folder: Path) -> Catalog:
    return Catalog(model_folder)


@pytest.fixture
def load(catalog: Catalog):
    def load(**options: object) -> ModelPlacement:
        language = catalog.language_model("language")
        return ModelPlacement.load(
            catalog.painting_model("sdxl"), language, RUNTIME, PREFERENCES, **options
        )

    return load


@pytest.fixture
def on(load):
    """A placement that follows a plan, with smaller plans to step down to."""
    loaded = load()

    def on(plan: Plan, *smaller: Plan) -> ModelPlacement:
        loaded.painter.arrange(plan)
        return ModelPlacement(plan, smaller, RUNTIME, loaded.painter, loaded.enhancer)

    return on


def paint(placement: ModelPlacement) -> bytes:
    with placement.painting():
        return placement.painter.paint(JOB, lambda step, steps: None).tobytes()


def enhance(placement: ModelPlacement) -> str:
    with placement.enhancing():
        return placement.enhancer.enhance(
            "a red cat", "general", seed=1, count_tokens=len, time_limit=30
        ).text


def test_a_small_machine_s_models_are_planned_and_loaded(load, caplog) -> None:
    caplog.set_level(logging.INFO, logger="banatie")
    placement = load()
    assert (placement.plan.painter, placement.plan.language) == ("resident", "device")
    assert 0 < placement.plan.needed < 100_000_000
    assert f"{placement.plan}: it takes {format_bytes(placement.plan.needed)} of " in caplog.text
    assert enhance(placement)
    assert paint(placement)


def test_a_cpu_without_room_for_float32_paints_in_bfloat16(load, monkeypatch) -> None:
    needed = load().plan.needed
    free = psutil.virtual_memory()._replace(available=int(needed * 0.4))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    placement = load()
    assert placement.painter._pipeline.unet.dtype == torch.bfloat16
    assert placement.plan.needed < needed
    assert paint(placement)


def test_a_broken_language_model_is_left_out(
    catalog, tiny_language_model, tmp_path, caplog
) -> None:
    shutil.copytree(tiny_language_model, tmp_path / "bad")
    model = Catalog(tmp_path).language_model("bad")
    (tmp_path / "bad" / "tokenizer.json").write_text("{}", "utf-8")
    placement = ModelPlacement.load(catalog.painting_model("sdxl"), model, RUNTIME, PREFERENCES)
    assert placement.enhancer is None
    assert "no prompt will be enhanced" in caplog.text
    assert paint(placement)


def test_a_language_model_can_be_loaded_late(
    catalog, tiny_language_model, tmp_path, caplog
) -> None:
    model = catalog.painting_model("sdxl")
    placement = ModelPlacement.load(model, None, RUNTIME, PREFERENCES)
    assert placement.enhancer is None
    shutil.copytree(tiny_language_model, tmp_path / "bad")
    broken = Catalog(tmp_path).language_model("bad")
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"none")
    placement.load_language_model(broken)
    assert placement.enhancer is None
    assert "no prompt will be enhanced" in caplog.text
    placement.load_language_model(catalog.language_model("language"))
    assert placement.enhancer.name == "language"
    assert placement.plan.language == "device"
    assert enhance(placement)
    assert paint(placement)


def test_a_language_model_that_finds_no_memory_is_left_out(load, monkeypatch, caplog) -> None:
    def run_out(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 6.00 GiB.")

    monkeypatch.setattr(LlamaForCausalLM, "to", run_out)
    placement = load()
    assert placement.enhancer is None
    assert "no prompt will be enhanced: CUDA out of memory" in caplog.text
    assert paint(placement)


def test_a_broken_painting_model_is_reported(tiny_sdxl, tmp_path) -> None:
    shutil.copytree(tiny_sdxl, tmp_path / "bad")
    (tmp_path / "bad" / "unet" / "config.json").write_text("{", "utf-8")
    with pytest.raises(ModelBroken, match=r"config\.json"):
        ModelPlacement.load(Catalog(tmp_path).painting_model("bad"), None, RUNTIME, PREFERENCES)


def test_stepping_down_changes_the_plan_but_not_the_picture(on, caplog) -> None:
    first = Plan()
    smaller = (Plan(language="cpu"), Plan("offload-encoders", "cpu"), Plan("offload-layers", "cpu"))
    placement = on(first, *smaller)
    expected = paint(placement)
    for plan in smaller:
        assert placement.step_down()
        assert placement.plan == dataclasses.replace(plan, reason=RAN_OUT_OF_MEMORY)
        assert f"out of memory; plan until the next start: {plan}" in caplog.text
        assert paint(placement) == expected
        assert enhance(placement)
    assert not placement.step_down()
    assert placement.plan.painter == "offload-layers"


def test_an_enlarged_picture_that_does_not_fit_is_painted_in_tiles_from_then_on(on) -> None:
    roomy = Plan(max_pixels=10_000_000)
    placement = on(roomy, Plan(tiled=True))
    assert placement.painter.max_pixels == 10_000_000
    assert placement.step_down(4_000_000)
    assert placement.plan == dataclasses.replace(roomy, max_pixels=0, reason=RAN_OUT_OF_MEMORY)
    assert placement.painter.max_pixels == 0
    # If not even that suffices, as for any other picture.
    assert placement.step_down(4_000_000)
    assert placement.plan.tiled
    assert not placement.step_down(4_000_000)


def test_tiles_and_eight_bits_give_nearly_the_same_picture(on) -> None:
    placement = on(
        Plan(), Plan("offload-layers", "cpu"), Plan("offload-layers-fp8", "cpu", tiled=True)
    )
    whole = torch.frombuffer(bytearray(paint(placement)), dtype=torch.uint8).int()
    while placement.step_down():
        pass
    frugal = torch.frombuffer(bytearray(paint(placement)), dtype=torch.uint8).int()
    assert 0 < (whole - frugal).abs().float().mean() < 8
    stored = {weight.dtype for weight in placement.painter._pipeline.unet.parameters()}
    assert torch.float8_e4m3fn in stored


def test_without_a_language_model_nothing_is_swapped(on) -> None:
    placement = on(Plan(language="swap"))
    placement.enhancer = None
    with placement.enhancing(), placement.painting():
        assert paint(placement)


def test_swapping_starves_neither_model(on) -> None:
    placement = on(Plan(language="swap"))
    order: list[str] = []

    def enhance_one() -> None:
        with placement.enhancing():
            order.append("enhanced")

    thread = threading.Thread(target=enhance_one)
    for number in range(5):
        with placement.painting():
            if number == 1:
                thread.start()
                wait_until(
                    lambda: len(placement._swap_lock._waiters) == 2, "the other model to wait"
                )
            order.append("painted")
    thread.join(20)
    assert order.index("enhanced") == 2


def test_without_swapping_neither_model_waits(on) -> None:
    placement = on(Plan())
    with placement.painting():
        thread = threading.Thread(target=enhance, args=(placement,))
        thread.start()
        thread.join(20)
        assert not thread.is_alive()


def test_a_language_model_that_was_moved_to_the_cpu_stays_there(on) -> None:
    placement = on(Plan(language="cpu"), Plan(tiled=True))
    assert placement.step_down()
    assert (placement.plan.language, placement.plan.tiled) == ("cpu", True)


def test_a_language_model_on_the_cpu_cannot_be_moved_further(on) -> None:
    placement = on(Plan())
    with placement.enhancing():
        assert not placement.move_language_model_to_cpu()
    assert placement.plan == Plan()
