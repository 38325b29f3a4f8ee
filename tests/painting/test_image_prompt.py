"""References that an IP-Adapter reads: what of them is seen, and what they leave as it was."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor

from banatie.devices.memory_plan import ALL_RESIDENT, Plan
from banatie.errors import ModelBroken, PaintingError
from banatie.models.ip_adapter import ADAPTER_FILE, IMAGE_ENCODER
from banatie.models.types import IpAdapter
from banatie.painting.image_prompt import ImagePrompter
from banatie.painting.lora import Lora
from banatie.painting.painter import Painter
from tests.support.pictures import waves
from tests.support.tiny_ip_adapter import make_tiny_image_encoder, make_tiny_ip_adapter
from tests.support.tiny_painter import FULL, HALF, JOB, hooked, paint, recorder, tiny_model

RED, BLUE = Image.new("RGB", (40, 40), "red"), Image.new("RGB", (70, 30), "blue")
WAVES = waves((60, 60))


def make_adapter(folder: Path, pipeline: Path, *, detailed: bool = False) -> IpAdapter:
    folder.mkdir()
    make_tiny_ip_adapter(folder / ADAPTER_FILE, pipeline, detailed=detailed)
    make_tiny_image_encoder(folder / IMAGE_ENCODER)
    return IpAdapter("adapter", "Adapter", "none", folder)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "plus"])
def adapter(
    request: pytest.FixtureRequest, original: Path, tmp_path_factory: pytest.TempPathFactory
) -> IpAdapter:
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    return make_adapter(folder, original, detailed=request.param)


@pytest.fixture(scope="module")
def reading(original: Path, adapter: IpAdapter) -> Painter:
    """A painter with the adapter."""
    return load(original, adapter)


def load(folder: Path, adapter: IpAdapter, plan: Plan = ALL_RESIDENT, runtime=FULL) -> Painter:
    return Painter.load(tiny_model(folder), runtime, plan, ip_adapter=adapter)


def pixels(picture: bytes) -> np.ndarray:
    return np.frombuffer(picture, np.uint8).astype(int)


def test_each_picture_is_seen_and_nothing_stays(reading: Painter, painter: Painter) -> None:
    plain = paint(painter)
    both = paint(reading, image_prompts=(RED, BLUE))
    assert len({plain, both, paint(reading, image_prompts=(RED, WAVES))}) == 3
    assert paint(reading, image_prompts=(RED, BLUE)) == both
    assert paint(reading) == plain
    # All pictures are attended to at once.
    other_order = pixels(paint(reading, image_prompts=(BLUE, RED)))
    assert np.abs(other_order - pixels(both)).max() <= 1


def test_the_strength_is_how_much_of_them_is_seen(reading: Painter) -> None:
    plain = paint(reading)
    far = [
        np.abs(
            pixels(paint(reading, image_prompts=(RED, WAVES), reference_strength=strength))
            - pixels(plain)
        ).mean()
        for strength in (0.0, 0.05, 0.2)
    ]
    assert far[0] == 0 < far[1] < far[2]


def test_pictures_are_the_same_in_a_batch_or_alone(reading: Painter) -> None:
    pairs = [(RED, BLUE), (WAVES, RED)]
    jobs = [dataclasses.replace(JOB, seed=n, image_prompts=pair) for n, pair in enumerate(pairs)]
    assert jobs[0].batch_key == jobs[1].batch_key
    assert jobs[0].batch_key != dataclasses.replace(jobs[0], image_prompts=(RED,)).batch_key
    assert jobs[0].batch_key != dataclasses.replace(jobs[0], reference_strength=0.5).batch_key
    assert jobs[0].batch_key != JOB.batch_key
    together = reading.paint_batch(jobs, recorder([]))
    for job, picture in zip(jobs, together, strict=True):
        alone = reading.paint(job, recorder([]))
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(alone)).max() <= 1


def test_the_picture_is_the_one_that_diffusers_own_pipeline_paints(
    reading: Painter, adapter: IpAdapter, original: Path
) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(original, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_ip_adapter(
        str(adapter.folder.parent),
        subfolder=adapter.folder.name,
        weight_name=ADAPTER_FILE,
        image_encoder_folder=f"{adapter.folder.name}/{IMAGE_ENCODER}",
    )
    pipeline.register_modules(
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
    )
    pipeline.set_ip_adapter_scale(0.6)
    # The two would scale them by different filters.
    own_size = [waves((32, 32)), RED.resize((32, 32))]
    expected = pipeline(
        JOB.prompt,
        width=128,
        height=128,
        num_inference_steps=3,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(3),
        ip_adapter_image=[own_size],
    ).images[0]
    job = dataclasses.replace(JOB, width=128, height=128, seed=3, image_prompts=tuple(own_size))
    found = reading.paint(job, recorder([]))
    assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize(
    "place", ["offload-encoders", "offload-layers", "offload-layers-fp8"], ids=str
)
def test_every_plan_paints_it(
    original: Path, adapter: IpAdapter, reading: Painter, place: str
) -> None:
    offloaded = load(original, adapter, Plan(place))
    found = pixels(paint(offloaded, image_prompts=(RED, BLUE)))
    expected = pixels(paint(reading, image_prompts=(RED, BLUE)))
    if place == "offload-layers-fp8":
        assert paint(offloaded, image_prompts=(RED, BLUE)) != paint(offloaded)
    else:
        assert np.array_equal(found, expected)


def test_half_precision_paints_nearly_the_same(
    original: Path, adapter: IpAdapter, reading: Painter
) -> None:
    half = load(original, adapter, runtime=HALF)
    found = pixels(paint(half, image_prompts=(RED, BLUE)))
    expected = pixels(paint(reading, image_prompts=(RED, BLUE)))
    assert np.abs(found - expected).mean() < 4


def test_without_guidance_and_enlarged_and_of_any_size(reading: Painter) -> None:
    for changes in ({"guidance_scale": 1.0}, {"upscale": 1.5}, {"width": 50, "height": 38}):
        assert paint(reading, image_prompts=(RED, BLUE), **changes) != paint(reading, **changes)


def test_a_stopped_picture_leaves_nothing(reading: Painter) -> None:
    plain = paint(reading)

    def stop(step: int, steps: int) -> None:
        raise KeyError(step)

    with pytest.raises(KeyError, match="1"):
        reading.paint(dataclasses.replace(JOB, image_prompts=(RED, BLUE)), stop)
    assert paint(reading) == plain


def test_pictures_that_give_no_numbers_fail_with_the_reason(reading: Painter) -> None:
    def break_it(_module: object, _inputs: object, tokens: torch.Tensor) -> torch.Tensor:
        return tokens * torch.nan

    projection = reading._image_prompter._projection
    with hooked(projection, break_it), pytest.raises(PaintingError, match="no finite numbers"):
        paint(reading, image_prompts=(RED, BLUE))


def test_an_adapter_works_beside_loras(reading: Painter, tmp_path: Path) -> None:
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    file = tmp_path / "lora.safetensors"
    halves = {"lora_A": torch.ones(2, 32), "lora_B": torch.ones(16, 2)}
    save_file({f"{name}.{half}.weight": tensor for half, tensor in halves.items()}, file)
    loras = (Lora("lora", file, 1.0),)
    both = paint(reading, image_prompts=(RED, BLUE), loras=loras)
    assert both not in (paint(reading, loras=loras), paint(reading, image_prompts=(RED, BLUE)))
    assert paint(reading, image_prompts=(RED, BLUE), loras=loras) == both


@pytest.mark.parametrize("damage", ["lacks", "more", "shape", "encoder"])
def test_one_that_does_not_fit_is_refused_and_left_out(
    original: Path, adapter: IpAdapter, painter: Painter, tmp_path: Path, damage: str
) -> None:
    folder = Path(shutil.copytree(adapter.folder, tmp_path / "adapter"))
    file = folder / (ADAPTER_FILE if damage != "encoder" else f"{IMAGE_ENCODER}/model.safetensors")
    tensors = load_file(file)
    if damage == "lacks":
        del tensors["ip_adapter.3.to_k_ip.weight"]
    elif damage == "more":
        tensors["ip_adapter.9.to_k_ip.weight"] = torch.ones(16, 32)
    elif damage == "shape":
        tensors["ip_adapter.3.to_k_ip.weight"] = torch.ones(8, 32)
    else:
        del tensors["visual_projection.weight"]
    save_file(tensors, file, {"format": "pt"})
    broken = dataclasses.replace(adapter, folder=folder)
    with pytest.raises(ModelBroken, match=r"IP-Adapter 'adapter' is damaged or does not fit"):
        ImagePrompter.load(broken, painter._pipeline.unet, FULL)
    without = load(original, broken)
    assert not without.reads_pictures
    assert paint(without) == paint(painter)
