"""Models that are missing, damaged, too large for the memory or out of their mind."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import FaultyService
from tests.support.service import TinyModels
from tests.support.tiny_models import edit_json


def _cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


LANGUAGE_DAMAGE = {
    "missing": shutil.rmtree,
    "weights are cut": lambda folder: _cut(folder / "model.safetensors"),
    "tokenizer is cut": lambda folder: _cut(folder / "tokenizer.json"),
    "another architecture": lambda folder: edit_json(
        folder / "config.json", model_type="gpt2", architectures=["GPT2LMHeadModel"]
    ),
    "no architecture": lambda folder: edit_json(folder / "config.json", model_type="none"),
}
PAINTING_DAMAGE = {
    "missing": shutil.rmtree,
    "no text encoder": lambda folder: shutil.rmtree(folder / "text_encoder_2"),
    "weights are cut": lambda folder: _cut(folder / "unet" / "diffusion_pytorch_model.safetensors"),
    "scheduler is cut": lambda folder: _cut(folder / "scheduler" / "scheduler_config.json"),
    "another pipeline": lambda folder: edit_json(
        folder / "model_index.json", _class_name="StableDiffusion3Pipeline"
    ),
    "another architecture": lambda folder: edit_json(
        folder / "unet" / "config.json", cross_attention_dim=768
    ),
}


@pytest.mark.parametrize("damage", LANGUAGE_DAMAGE)
def test_without_a_language_model_pictures_are_made_with_a_warning(
    house: FaultyService, models: TinyModels, tmp_path: Path, damage: str
) -> None:
    folder = shutil.copytree(models.language, tmp_path / "language")
    LANGUAGE_DAMAGE[damage](folder)
    with _setting(house, "BANATIE_ENHANCEMENT__MODEL", str(folder)):
        house.hire_and_wait()
        record = house.post("a red cat", steps=2)
        assert record["prompt"] == record["originalPrompt"] == "a red cat"
        assert record["autoEnhance"] is True
        ended = house.ended(record["id"])
        assert house.health().json()["data"]["models"]["enhancement"] is None
        house.kill_worker(signal.SIGTERM)
    assert ended["status"] == "success"
    [warning] = ended["warnings"]
    assert "language model" in warning


@pytest.mark.parametrize("damage", PAINTING_DAMAGE)
def test_without_a_painting_model_health_says_what_to_do(
    house: FaultyService, models: TinyModels, damage: str
) -> None:
    folder = shutil.copytree(models.painting, house.folder / "models" / "mine", dirs_exist_ok=True)
    PAINTING_DAMAGE[damage](folder)
    with _setting(house, "BANATIE_PAINTING__MODEL", "mine"):
        logged = house.log.stat().st_size
        house.start_worker()
        house.wait_for(
            lambda: house.health().json()["data"]["worker"] == "broken" or not house.worker_lives(),
            "the worker to find out",
        )
        assert house.worker_lives(), house.tail()
        answer = house.health()
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "SERVICE_UNAVAILABLE"
        reason = answer.json()["error"]["message"]
        # To everybody the model's name; the folders of this machine only to who reads the log.
        assert "mine" in reason
        assert "log" in reason
        assert str(house.folder) not in answer.text
        [line] = [line for line in _lines_since(house, logged) if "painted:" in line]
        assert re.search(r"copy|set painting\.model|put its folder|neither a folder nor", line)
        generated = house.run("generate", "a red cat")
        assert (generated.returncode, generated.stdout) == (1, "")
        assert "mine" in generated.stderr.splitlines()[-1]
        # What is there can still be read, and what is asked for waits.
        assert house.request("GET", "/api/v1/generations").status_code == 200
        record = house.post("a red cat", prefer="respond-async", steps=2)
        assert house.get(record["id"])["status"] == "pending"
        house.kill_worker(signal.SIGTERM)
    house.hire_and_wait()
    assert house.ended(record["id"])["status"] == "success"


def test_out_of_memory_costs_one_job(house: FaultyService) -> None:
    house.hire_and_wait(run_out_of_memory={"wider_than": 40})
    worker = house.worker
    wide = house.post("a red cat", aspectRatio="21:9", autoEnhance=False, steps=2)
    square = house.post("a red cat", autoEnhance=False, steps=2)
    waited = house.request(
        "POST",
        "/api/v1/generations",
        json={"prompt": "a cat", "aspectRatio": "21:9", "autoEnhance": False},
        headers={"Prefer": "wait=60"},
    )
    failed = house.ended(wide["id"])
    assert failed["status"] == "failed"
    assert "memory" in failed["errorMessage"]
    assert "48.00 GiB" not in failed["errorMessage"]
    assert failed["outputImage"] is None
    assert house.ended(square["id"])["status"] == "success"
    assert waited.status_code == 500
    assert waited.json()["error"]["code"] == "GENERATION_FAILED"
    assert (house.worker, house.worker_lives()) == (worker, True)
    house.assert_tidy()


@pytest.mark.parametrize("error", ["RuntimeError", "MemoryError"])
def test_a_language_model_that_raises_costs_a_warning(house: FaultyService, error: str) -> None:
    house.hire_and_wait(break_language_model={"error": error, "word": "poison"})
    bad = house.post("a bottle of poison", steps=2)
    good = house.post("a red cat", steps=2)
    assert bad["prompt"] == bad["originalPrompt"] == "a bottle of poison"
    assert bad["autoEnhance"] is True
    assert len(bad["warnings"]) == 1
    assert good["prompt"] != good["originalPrompt"]
    for record in (bad, good):
        ended = house.ended(record["id"])
        assert (ended["status"], ended["warnings"]) == ("success", record["warnings"])


@pytest.mark.parametrize("seconds", [0.4, 10_000], ids=["slow", "hung"])
def test_a_language_model_without_end_costs_a_warning(
    build: Callable[..., FaultyService], seconds: float
) -> None:
    house = build(enhancement__time_limit="1")
    house.hire_and_wait(slow_language_model={"seconds": seconds, "word": "poison"})
    long = house.post("a cat", autoEnhance=False, steps=100)
    house.painting(long["id"])
    bad = house.post("a bottle of poison", prefer="respond-async", steps=2)
    good = house.post("a red cat", prefer="respond-async", steps=2)
    bad, good, long = house.all_ended([bad, good, long])
    assert (bad["status"], bad["prompt"], bad["autoEnhance"]) == (
        "success",
        "a bottle of poison",
        True,
    )
    assert len(bad["warnings"]) == 1
    assert (good["status"], good["warnings"], good["retryCount"]) == ("success", [], 0)
    assert (long["status"], long["warnings"]) == ("success", [])
    house.assert_tidy()


def _lines_since(house: FaultyService, offset: int) -> list[str]:
    return house.log.read_bytes()[offset:].decode("utf-8", "replace").splitlines()


class _setting:
    """One of the house's settings, other than usual for a while."""

    def __init__(self, house: FaultyService, name: str, value: str) -> None:
        self._house, self._name, self._value = house, name, value

    def __enter__(self) -> None:
        self._usual = self._house.environment[self._name]
        self._house.environment[self._name] = self._value

    def __exit__(self, *_: object) -> None:
        self._house.environment[self._name] = self._usual
