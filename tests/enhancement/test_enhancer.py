"""The enhancer: loading, time limit and stop, and what holds for every text."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from banatie.devices.runtime import Runtime
from banatie.enhancement.enhancer import Enhancer, Stopped
from banatie.errors import ModelBroken
from banatie.models.catalog import Catalog
from banatie.models.types import LanguageModel, Mode
from tests.support.tiny_models import edit_json
from tests.support.word_llama import RUNTIME, enhance, load


@pytest.mark.parametrize(
    "prompt",
    [
        "un gato negro de noche",
        "夜の森で眠る狐",
        'a sign that says "OPEN 24/7"',
        "@mascot and @last in Tokyo",
        "a dog, soft light, 85mm lens, (sharp:1.3), blurred background",
        "Line one.\nLine two!",
        "?!",
        "🙂🙂",
    ],
)
def test_the_user_s_words_stay_byte_for_byte(untrained: Enhancer, prompt: str) -> None:
    result = enhance(untrained, prompt)
    assert prompt in result.text
    assert len(result.text) > len(prompt)


def test_tags_are_no_part_of_the_text(untrained: Enhancer) -> None:
    with_tag = enhance(untrained, "a cat <lora:fur:0.8>, on a sofa")
    assert with_tag.text == enhance(untrained, "a cat, on a sofa").text


def test_a_prompt_of_tags_alone_is_not_enhanced(untrained: Enhancer) -> None:
    result = enhance(untrained, "<lora:fur:0.8>")
    assert result.text == "<lora:fur:0.8>"
    assert "nothing but tags" in result.warning


def test_broken_weights_give_the_original_and_a_warning(folder: Path) -> None:
    enhancer = load(folder)
    torch.nn.init.constant_(enhancer._model.model.norm.weight, torch.nan)
    result = enhance(enhancer, "draw me a cat <lora:fur:1>")
    assert result.text == "draw me a cat <lora:fur:1>"
    assert "nothing usable" in result.warning


def test_without_time_the_original_is_used(untrained: Enhancer) -> None:
    result = enhance(untrained, "draw me a cat", time_limit=0.0)
    assert result.text == "draw me a cat"
    assert "more than 0 seconds" in result.warning


def test_the_time_limit_is_checked_between_tokens(untrained: Enhancer) -> None:
    enhance(untrained, "a cat")
    asked = 0

    def slow() -> bool:
        nonlocal asked
        asked += 1
        time.sleep(0.02)
        return False

    result = enhance(untrained, "a cat", time_limit=0.05, stop=slow)
    assert result.warning
    assert 1 <= asked <= 5


@pytest.mark.parametrize("mode", ["guided", "free"])
def test_stop_is_called_between_tokens(folder: Path, mode: Mode) -> None:
    enhancer = load(folder, mode)
    answers = iter([False, False, False, True])
    with pytest.raises(Stopped):
        enhance(enhancer, "a guest house", stop=lambda: next(answers))
    assert next(answers, None) is None


def test_a_folder_without_weights_is_named_with_the_remedy(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelBroken, match=rf"(?s){broken}.*copy its files again"):
        load(broken)


def test_weights_in_a_format_that_can_run_code_are_not_loaded(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    file = broken / "model.safetensors"
    torch.save(load_file(file), broken / "pytorch_model.bin")
    file.unlink()
    with pytest.raises(ModelBroken, match=rf"{broken} holds no weights in the safetensors format"):
        load(broken)


def test_beside_a_pickle_only_the_safetensors_are_read(folder: Path, tmp_path: Path) -> None:
    both = shutil.copytree(folder, tmp_path / "both")
    (both / "pytorch_model.bin").write_bytes(b"whoever opens this fails")
    assert isinstance(load(both), Enhancer)


def test_code_that_comes_with_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    foreign, ran = shutil.copytree(folder, tmp_path / "foreign"), tmp_path / "ran"
    (foreign / "modeling_foreign.py").write_text(f"open({str(ran)!r}, 'w')\n")
    edit_json(
        foreign / "config.json",
        model_type="foreign",
        auto_map={
            "AutoConfig": "modeling_foreign.Config",
            "AutoModelForCausalLM": "modeling_foreign.Model",
        },
    )
    with pytest.raises(ModelBroken, match=rf"(?s){foreign}.*copy its files again"):
        load(foreign)
    assert not ran.exists()


def test_damaged_weights_are_named_with_the_remedy(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"not weights")
    source = Catalog(tmp_path).language_models[0].source
    model = LanguageModel("tiny", "Tiny", "MIT", "guided", broken, source)
    with pytest.raises(ModelBroken, match="banatie models pull tiny"):
        Enhancer.load(model, RUNTIME)


@pytest.mark.needs_models
def test_the_embedded_model_adds_phrases_of_its_own() -> None:
    models_dir = Path(__file__).parents[2] / "models"
    if not (models_dir / "smollm2-135m-instruct" / "config.json").is_file():
        pytest.skip("the embedded language model is not installed: run scripts/start once")
    model = Catalog(models_dir).language_model("smollm2-135m-instruct")
    enhancer = Enhancer.load(model, Runtime("cpu", torch.float32, torch.bfloat16))
    prompt = "a tram depot at the end of the line"
    results = [enhance(enhancer, prompt, seed=seed) for seed in range(4)]
    assert any(result.from_model for result in results)
    for result in results:
        assert result.warning is None
        assert result.mode == "guided"
        assert prompt in result.text
