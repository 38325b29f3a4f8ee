"""Models that are missing, damaged, too large for the memory or out of their mind."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.faulty_service import FaultyService
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
    service: FaultyService, models: TinyModels, tmp_path: Path, damage: str
) -> None:
    folder = shutil.copytree(models.language, tmp_path / "language")
    LANGUAGE_DAMAGE[damage](folder)
    with _setting(service, "BANATIE_ENHANCEMENT__MODEL", str(folder)):
        service.start_worker_and_wait()
        record = service.post("a red cat", steps=2)
        assert record["prompt"] == record["originalPrompt"] == "a red cat"
        assert record["autoEnhance"] is True
        ended = service.wait_until_ended(record["id"])
        assert service.health().json()["data"]["models"]["enhancement"] is None
        service.kill_worker(signal.SIGTERM)
    assert ended["status"] == "success"
    [warning] = ended["warnings"]
    assert "language model" in warning


@pytest.mark.parametrize("damage", PAINTING_DAMAGE)
def test_without_a_painting_model_health_says_what_to_do(
    service: FaultyService, models: TinyModels, damage: str
) -> None:
    folder = shutil.copytree(
        models.painting, service.folder / "models" / "mine", dirs_exist_ok=True
    )
    PAINTING_DAMAGE[damage](folder)
    with _setting(service, "BANATIE_PAINTING__MODEL", "mine"):
        logged = service.log.stat().st_size
        service.start_worker()
        service.wait_for(
            lambda: (
                service.health().json()["data"]["worker"] == "broken"
                or not service.worker_is_alive()
            ),
            "the worker to find out",
        )
        assert service.worker_is_alive(), service.tail()
        answer = service.health()
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "SERVICE_UNAVAILABLE"
        reason = answer.json()["error"]["message"]
        # To everybody the model's name; the folders of this machine only to who reads the log.
        assert "mine" in reason
        assert "log" in reason
        assert str(service.folder) not in answer.text
        [line] = [line for line in _lines_since(service, logged) if "painted:" in line]
        assert re.search(r"copy|set painting\.model|put its folder|neither a folder nor", line)
        generated = service.run("generate", "a red cat")
        assert (generated.returncode, generated.stdout) == (1, "")
        assert "mine" in generated.stderr.splitlines()[-1]
        # What is there can still be read, and what is asked for waits.
        assert service.request("GET", "/api/v1/generations").status_code == 200
        record = service.post("a red cat", prefer="respond-async", steps=2)
        assert service.get(record["id"])["status"] == "pending"
        service.kill_worker(signal.SIGTERM)
    service.start_worker_and_wait()
    assert service.wait_until_ended(record["id"])["status"] == "success"


def test_out_of_memory_costs_one_job(service: FaultyService) -> None:
    service.start_worker_and_wait(run_out_of_memory={"wider_than": 40})
    worker = service.worker
    wide = service.post("a red cat", aspectRatio="21:9", autoEnhance=False, steps=2)
    square = service.post("a red cat", autoEnhance=False, steps=2)
    waited = service.request(
        "POST",
        "/api/v1/generations",
        json={"prompt": "a cat", "aspectRatio": "21:9", "autoEnhance": False},
        headers={"Prefer": "wait=60"},
    )
    failed = service.wait_until_ended(wide["id"])
    assert failed["status"] == "failed"
    assert "memory" in failed["errorMessage"]
    assert "48.00 GiB" not in failed["errorMessage"]
    assert failed["outputImage"] is None
    assert service.wait_until_ended(square["id"])["status"] == "success"
    assert waited.status_code == 500
    assert waited.json()["error"]["code"] == "GENERATION_FAILED"
    assert (service.worker, service.worker_is_alive()) == (worker, True)
    service.assert_files_match_records()


@pytest.mark.parametrize("error", ["RuntimeError", "MemoryError"])
def test_a_language_model_that_raises_costs_a_warning(service: FaultyService, error: str) -> None:
    service.start_worker_and_wait(break_language_model={"error": error, "word": "poison"})
    bad = service.post("a bottle of poison", steps=2)
    good = service.post("a red cat", steps=2)
    assert bad["prompt"] == bad["originalPrompt"] == "a bottle of poison"
    assert bad["autoEnhance"] is True
    assert len(bad["warnings"]) == 1
    assert good["prompt"] != good["originalPrompt"]
    for record in (bad, good):
        ended = service.wait_until_ended(record["id"])
        assert (ended["status"], ended["warnings"]) == ("success", record["warnings"])


@pytest.mark.parametrize("seconds", [0.4, 10_000], ids=["slow", "hung"])
def test_a_language_model_without_end_costs_a_warning(
    new_service: Callable[..., FaultyService], seconds: float
) -> None:
    service = new_service(enhancement__time_limit="1")
    service.start_worker_and_wait(slow_language_model={"seconds": seconds, "word": "poison"})
    long = service.post("a cat", autoEnhance=False, steps=100)
    service.wait_until_painting(long["id"])
    bad = service.post("a bottle of poison", prefer="respond-async", steps=2)
    good = service.post("a red cat", prefer="respond-async", steps=2)
    bad, good, long = service.wait_until_all_ended([bad, good, long])
    assert (bad["status"], bad["prompt"], bad["autoEnhance"]) == (
        "success",
        "a bottle of poison",
        True,
    )
    assert len(bad["warnings"]) == 1
    assert (good["status"], good["warnings"], good["retryCount"]) == ("success", [], 0)
    assert (long["status"], long["warnings"]) == ("success", [])
    service.assert_files_match_records()


def _lines_since(service: FaultyService, offset: int) -> list[str]:
    return service.log.read_bytes()[offset:].decode("utf-8", "replace").splitlines()


class _setting:
    """One of the service's settings, other than usual for a while."""

    def __init__(self, service: FaultyService, name: str, value: str) -> None:
        self._house, self._name, self._value = service, name, value

    def __enter__(self) -> None:
        self._usual = self._house.environment[self._name]
        self._house.environment[self._name] = self._value

    def __exit__(self, *_: object) -> None:
        self._house.environment[self._name] = self._usual
