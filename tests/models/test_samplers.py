"""Samplers: their names, their schedules, and what a model can use."""

from __future__ import annotations

import dataclasses

import pytest

from banatie.models.samplers import SAMPLERS, SamplerUnusable, choose_sampler, usable_samplers
from tests.support.tiny_models import edit_json
from tests.support.tiny_painter import tiny_model


@pytest.mark.parametrize(
    ("name", "schedule", "found"),
    [
        ("Euler a", None, ("Euler a", None)),
        ("euler_a", "automatic", ("Euler a", None)),
        ("DPM++ 2M Karras", None, ("DPM++ 2M", "Karras")),
        ("DPM++ 2M Karras", "Automatic", ("DPM++ 2M", "Karras")),
        ("DPM++ 2M", "karras", ("DPM++ 2M", "Karras")),
        ("DPM++ 2M SDE", "sgm_uniform", ("DPM++ 2M SDE", "SGM Uniform")),
        ("k_euler", None, ("Euler", None)),
    ],
)
def test_names_are_those_of_webui(name, schedule, found):
    assert dataclasses.astuple(choose_sampler(name, schedule, None)) == found


@pytest.mark.parametrize(
    ("name", "schedule", "field"),
    [
        ("Restart", None, "sampler"),
        ("Euler", "Turbo", "scheduler"),
        ("DDIM", "Karras", "scheduler"),
        ("Euler a Karras", None, "scheduler"),
    ],
)
def test_what_there_is_not_is_refused_by_name(name, schedule, field):
    with pytest.raises(SamplerUnusable) as refused:
        choose_sampler(name, schedule, None)
    assert refused.value.field == field


def test_a_model_that_predicts_the_picture_cannot_use_all(tmp_path):
    (tmp_path / "scheduler").mkdir()
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text("{}")
    model = tiny_model(tmp_path)
    assert usable_samplers(model) == list(SAMPLERS)
    edit_json(file, prediction_type="sample")
    with pytest.raises(SamplerUnusable, match="tiny cannot use Euler a; it can use: Euler, DPM"):
        choose_sampler("Euler a", None, model)
