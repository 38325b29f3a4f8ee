"""Intake checks every submission, whichever way it comes in: by HTTP or from the command line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from banatie.config import load_config
from banatie.errors import ValidationError
from banatie.limits import (
    MAX_GUIDANCE_SCALE,
    MAX_LORA_WEIGHT,
    MAX_LORAS,
    MAX_META_DEPTH,
    MAX_SEED,
    MAX_STEPS,
)
from banatie.records import Generation, LoraUse, Submission
from banatie.services import Services, open_services
from tests.support.api_server import add_lora

NAMES = [f"lora-{number}" for number in range(MAX_LORAS + 1)]


def loras(count: int) -> tuple[LoraUse, ...]:
    return tuple(LoraUse(name) for name in NAMES[:count])


def nested(depth: int) -> dict[str, object]:
    meta: dict[str, object] = {}
    for _ in range(depth - 1):
        meta = {"deeper": meta}
    return meta


@pytest.fixture
def services(tmp_path: Path):
    for name in NAMES:
        add_lora(tmp_path / "models", name)
    settings = {
        "storage.data_dir": str(tmp_path / "data"),
        "storage.models_dir": str(tmp_path / "models"),
        "limits.prompt_characters": "100",
        "limits.meta_bytes": "2000",
    }
    services = open_services(load_config(None, {}, settings), lambda: 1)
    yield services
    services.close()


def submit(services: Services, **options: object) -> Generation:
    project_id = services.keys.default_project_id(1)
    submission = Submission(**{"prompt": "a fox", **options})
    return services.intake.submit(project_id, submission).generation


ALLOWED = {
    "prompt": ["x" * 100],
    "negative_prompt": ["", "x" * 100],
    "seed": [0, MAX_SEED],
    "steps": [1, MAX_STEPS],
    "guidance_scale": [0, MAX_GUIDANCE_SCALE],
    "loras": [loras(MAX_LORAS), (LoraUse(NAMES[0], -4),), (LoraUse(NAMES[0], MAX_LORA_WEIGHT),)],
    "meta": [nested(MAX_META_DEPTH)],
}
REFUSED = [
    ("prompt", "x" * 101, "prompt: has 101 characters; at most 100"),
    ("prompt", " \n", "prompt: must not be blank"),
    ("negative_prompt", "x" * 101, "negativePrompt: has 101 characters; at most 100"),
    ("seed", -1, "seed: must be from 0 to 9007199254740991"),
    ("seed", MAX_SEED + 1, "seed: must be from 0 to"),
    ("steps", 0, "steps: must be from 1 to 100"),
    ("steps", MAX_STEPS + 1, "steps: must be from 1 to 100"),
    ("guidance_scale", -0.1, "guidanceScale: must be from 0 to 20"),
    ("guidance_scale", 20.1, "guidanceScale: must be from 0 to 20"),
    ("guidance_scale", math.nan, "guidanceScale: must be from 0 to 20"),
    ("loras", loras(MAX_LORAS + 1), "loras: at most 4 can be used at once, not 5"),
    ("loras", loras(1) * 2, "loras: 'lora-0' is named more than once"),
    ("loras", (LoraUse("none"),), "no LoRA called 'none'"),
    ("loras", (LoraUse(NAMES[0], 4.1),), "loras: the weight of 'lora-0' must be from -4 to 4"),
    ("loras", (LoraUse(NAMES[0], math.nan),), "loras: the weight of 'lora-0' must be from -4 to 4"),
    ("meta", nested(MAX_META_DEPTH + 1), "meta: is nested deeper than 64 levels"),
    ("meta", {"text": "x" * 2000}, "meta: is larger than 2000 bytes of JSON"),
]


@pytest.mark.parametrize("field", ALLOWED)
def test_a_submission_at_its_limits_is_accepted(services: Services, field: str) -> None:
    for value in ALLOWED[field]:
        submit(services, **{field: value})
    assert services.generations.count() == len(ALLOWED[field])


@pytest.mark.parametrize(("field", "value", "message"), REFUSED)
def test_a_submission_beyond_its_limits_is_refused(
    services: Services, field: str, value: object, message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        submit(services, **{field: value})
    assert message in str(caught.value)
    assert services.generations.count() == 0


@pytest.mark.parametrize(
    ("prompt", "use"),
    [
        ("a fox <lora:lora-0:0.8>", LoraUse("lora-0", 0.8)),
        ("<lora:lora-0> a fox", LoraUse("lora-0", 1.0)),
        ("a fox<LORA: lora-0 : -1 >", LoraUse("lora-0", -1.0)),
        ("a fox <lora:Lora_0:0.8>", LoraUse("lora-0", 0.8)),
    ],
)
def test_a_tag_that_names_a_lora_is_applied(services: Services, prompt: str, use: LoraUse) -> None:
    for auto_enhance in (True, False):
        made = submit(services, prompt=prompt, auto_enhance=auto_enhance)
        assert (made.loras, made.warnings) == ((use,), ())
        assert made.prompt == made.original_prompt == prompt


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("<lora:none:0.8>", "no LoRA called 'none' is installed"),
        ("<lora:../../x:1>", "no LoRA called '../../x' is installed"),
        ("<hypernet:lora-0:1>", "only tags of LoRAs are supported"),
        ("<lora:lora-0:much>", "the weight 'much' is not a number"),
        ("<lora:lora-0:nan>", "the weight must be from -4 to 4"),
        ("<lora:lora-0:5>", "the weight must be from -4 to 4"),
        ("<lora:lora-0:1:0.5>", "one weight is supported, not several"),
        ("<lora:lora-1:1>", "this LoRA is applied already"),
    ],
)
def test_another_tag_is_left_out_with_a_warning(services: Services, tag: str, reason: str) -> None:
    named = (LoraUse("lora-1", 0.5),)
    made = submit(services, prompt=f"a fox {tag}", loras=named)
    assert made.loras == named
    assert made.warnings == (f"The tag {tag} was left out: {reason}.",)


def test_of_many_tags_four_are_applied_and_the_warnings_stay_few(services: Services) -> None:
    made = submit(services, prompt=" ".join(f"<lora:{name}>" for name in NAMES))
    assert made.loras == loras(MAX_LORAS)
    last = f"The tag <lora:{NAMES[-1]}> was left out: at most 4 LoRAs can be used at once."
    assert made.warnings == (last,)
    many = submit(services, prompt="".join(f"<x:{number}>" for number in range(14)))
    assert (len(many.warnings), many.warnings[-1]) == (9, "6 more tags were left out.")


def test_syntax_that_is_not_supported_gets_one_warning(services: Services) -> None:
    made = submit(services, prompt="(red:1.3) fox BREAK a", negative_prompt="{a|b} <x:1>")
    assert made.warnings == (
        "The tag <x:1> was left out: a negative prompt takes none.",
        "Weights, wildcards and other syntax of other programs is not supported, and was read as "
        "words: (red:1.3) BREAK {a|b}",
    )


@pytest.mark.parametrize(
    ("asked", "painted"),
    [
        ((256, 256), (256, 256)),
        ((360, 360), (360, 360)),
        ((250, 131), (248, 128)),
        ((10, 300), (64, 304)),
        ((1024, 1024), (256, 256)),
        ((1792, 1024), (336, 192)),
        ((1024, 1792), (192, 336)),
        ((99999, 1), (2048, 64)),
        ((0, 0), (64, 64)),
    ],
)
def test_the_nearest_size_can_be_painted(
    services: Services, asked: tuple[int, int], painted: tuple[int, int]
) -> None:
    assert services.intake.nearest_size(*asked) == painted
    assert submit(services, size=painted).width == painted[0]


def test_the_nearest_size_of_the_models_own_number_of_pixels(services: Services) -> None:
    assert services.intake.nearest_size(360, 360, own_pixels=True) == (256, 256)
    assert services.intake.nearest_size(96, 64, own_pixels=True) == (96, 64)
