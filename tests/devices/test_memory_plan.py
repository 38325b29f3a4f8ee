"""Which plan is chosen for which memory, with the sizes of SDXL and of language models."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from banatie.devices.memory_plan import (
    PlacementPreferences,
    Plan,
    Sizes,
    choose_plan,
    ladder,
    place_language_model,
    sizes_of,
)
from banatie.devices.recommendation import SDXL
from banatie.errors import ModelBroken
from banatie.models.catalog import Catalog
from banatie.models.ip_adapter import ADAPTER_FILE, IMAGE_ENCODER
from banatie.models.types import IpAdapter
from tests.support.tiny_ip_adapter import make_tiny_image_encoder, make_tiny_ip_adapter
from tests.support.tiny_models import edit_json

GB = 10**9
SMALL, LARGE = 135 * 10**6, 3 * GB
"""Parameters of two language models."""


def sdxl(language: int = SMALL) -> Sizes:
    """SDXL base 1.0 in 16 bits, as its files and `sizes_of` have it, with a language model."""
    return replace(SDXL, language=2 * language, language_parameters=language)


@pytest.mark.parametrize(
    ("free", "language", "painter", "place", "tiled"),
    [
        (80, SMALL, "resident", "device", False),
        (23.5, SMALL, "resident", "device", False),
        (23.5, LARGE, "resident", "device", False),
        (15.5, LARGE, "resident", "device", True),
        (11.5, SMALL, "resident", "device", True),
        (11.5, LARGE, "resident", "swap", True),
        (7.6, SMALL, "offload-encoders", "cpu", True),
        (7.6, LARGE, "offload-encoders", "swap", True),
        (5.6, SMALL, "offload-layers", "cpu", False),
        (3.6, SMALL, "offload-layers", "cpu", True),
        (3.6, LARGE, "offload-layers", "cpu", True),
    ],
)
def test_cards_of_all_sizes(
    free: float, language: int, painter: str, place: str, tiled: bool
) -> None:
    plan = choose_plan(ladder(sdxl(language), "cuda"), int(free * GB), "cuda")
    assert (plan.painter, plan.language, plan.tiled) == (painter, place, tiled)
    assert plan.needed <= free * GB


@pytest.mark.parametrize("device", ["cuda:1", "cpu", "mps"])
@pytest.mark.parametrize("language", [0, SMALL, LARGE])
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_each_plan_needs_less_than_the_one_before(device: str, language: int, batch: int) -> None:
    plans = ladder(sdxl(language), device, PlacementPreferences(batch=batch))
    assert plans[0].batch == batch
    assert plans[-1].batch < batch or batch == 1
    assert plans[-1].tiled
    assert all(one.needed > other.needed for one, other in itertools.pairwise(plans))


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_where_there_is_one_memory_nothing_is_moved(device: str) -> None:
    plans = ladder(sdxl(LARGE), device, PlacementPreferences("offload-layers", "cpu", 2))
    assert {(plan.painter, plan.language) for plan in plans} == {("resident", "device")}


def test_a_preferred_place_is_the_only_one() -> None:
    plans = ladder(sdxl(), "cuda", PlacementPreferences("offload-layers", "swap"))
    assert {(plan.painter, plan.language) for plan in plans} == {("offload-layers", "swap")}


def test_a_batch_is_as_large_as_fits() -> None:
    def batch(free: float) -> int:
        return choose_plan(
            ladder(sdxl(), "cuda", PlacementPreferences(batch=8)), int(free * GB), "cuda"
        ).batch

    assert [batch(free) for free in (80, 12, 10, 9)] == [8, 8, 4, 2]


def test_a_plan_gives_its_reason() -> None:
    plans = ladder(sdxl(), "cuda")
    assert (
        choose_plan(plans, 80 * GB, "cuda:0").reason == "it takes 11.8 GB of 80.0 GB free on cuda:0"
    )
    second = choose_plan(plans, 11 * GB, "cuda")
    assert str(second) == (
        "the painting model on the device, the language model beside it, pictures decoded in tiles"
    )
    assert "without tiles" not in second.reason
    assert second.reason.startswith("it takes 8.4 GB of 11.0 GB free on cuda; ")
    assert second.reason.endswith("would take 11.8 GB")
    last = choose_plan(plans, GB, "cuda")
    assert last.reason.startswith("no plan fits the 1.0 GB free on cuda; this one comes closest")


def test_sizes_are_read_from_the_files(
    tiny_sdxl: Path, tiny_language_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_sdxl, tmp_path / "sdxl")
    shutil.copytree(tiny_language_model, tmp_path / "language")
    catalog = Catalog(tmp_path)
    model, language = catalog.painting_model("sdxl"), catalog.language_model("language")
    full = sizes_of(model, language, "cpu", unet_bytes=4, vae_bytes=4, language_bytes=4)
    half = sizes_of(model, language, "cpu", unet_bytes=2, vae_bytes=4, language_bytes=2)
    # Every tensor of the tiny models is float32, so that the files' sizes are theirs but for heads.
    for part, size in (("unet", full.unet), ("vae", full.vae)):
        [file] = (tmp_path / "sdxl" / part).glob("*.safetensors")
        assert 0 < file.stat().st_size - size < 100_000
    assert (half.unet, half.text_encoders) == (full.unet // 2, full.text_encoders // 2)
    assert (half.vae, half.vae_working) == (full.vae, full.vae_working)
    assert half.unet_working == full.unet_working // 2
    assert (half.language, half.language_parameters) == (full.language // 2, full.language // 4)
    assert full.tile_working <= full.vae_working
    without = sizes_of(model, None, "cpu", unet_bytes=4, vae_bytes=4, language_bytes=4)
    assert (without.language, without.unet) == (0, full.unet)


def test_an_ip_adapter_is_planned_for(tiny_sdxl: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    file = make_tiny_ip_adapter(tmp_path / "adapter" / ADAPTER_FILE, tiny_sdxl)
    encoder = make_tiny_image_encoder(tmp_path / "adapter" / IMAGE_ENCODER)
    shutil.copytree(tiny_sdxl, tmp_path / "sdxl")
    model = Catalog(tmp_path).painting_model("sdxl")
    adapter = IpAdapter("adapter", "Adapter", "none", tmp_path / "adapter")
    bytes_of = {"unet_bytes": 4, "vae_bytes": 4, "language_bytes": 4}
    found = sizes_of(model, None, "cpu", **bytes_of, ip_adapter=adapter)
    assert 0 < file.stat().st_size - found.adapter < 10_000
    assert 0 < (encoder / "model.safetensors").stat().st_size - found.image_encoder < 10_000
    # A broken one is left out when the models are loaded.
    file.write_bytes(b"nothing")
    assert sizes_of(model, None, "cpu", **bytes_of, ip_adapter=adapter) == sizes_of(
        model, None, "cpu", **bytes_of
    )
    # SDXL's: beside the model, or one encoder after the other.
    more = replace(sdxl(), adapter=700_000_000, image_encoder=1_260_000_000)
    needed = [
        {(each.painter, each.language, each.tiled): each.needed for each in ladder(sizes, "cuda")}
        for sizes in (sdxl(), more)
    ]
    for place in needed[0].keys() & needed[1].keys():
        extra = needed[1][place] - needed[0][place]
        least = 1_960_000_000 if place[0] == "resident" else 1
        assert least <= extra <= 1_960_000_000, place


def test_a_configuration_without_its_sizes_is_refused(tiny_sdxl: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_sdxl, tmp_path / "sdxl")
    model = Catalog(tmp_path).painting_model("sdxl")
    edit_json(tmp_path / "sdxl" / "vae" / "config.json", block_out_channels=None)
    with pytest.raises(ModelBroken, match="incomplete configuration"):
        sizes_of(model, None, "cpu", unet_bytes=4, vae_bytes=4, language_bytes=4)


@pytest.mark.parametrize(
    ("parameters", "spare", "device", "place"),
    [
        (SMALL, GB, "cuda", "device"),
        (SMALL, 0, "cuda", "cpu"),
        (LARGE, GB, "cuda:1", "swap"),
        (LARGE, 0, "cpu", "device"),
    ],
)
def test_a_language_model_that_is_loaded_late_goes_where_room_is(
    parameters: int, spare: int, device: str, place: str
) -> None:
    assert place_language_model(parameters, 2 * parameters, spare, device) == place


def test_by_default_everything_is_on_the_device() -> None:
    assert (Plan().painter, Plan().language, Plan().batch) == ("resident", "device", 1)


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
@pytest.mark.parametrize("free", [3.6, 7.6, 11.5, 15.5, 23.5, 80])
def test_what_is_left_free_is_room_for_a_larger_picture(device: str, free: float) -> None:
    sizes = sdxl()
    plans = ladder(sizes, device)
    assert {plan.max_pixels for plan in plans} == {sizes.pixels}
    plan = choose_plan(plans, int(free * GB), device)
    if plan.needed > free * GB * 0.95:
        assert plan.max_pixels == sizes.pixels
        return
    # Painted whole, it takes no more than is free; somewhat larger, it would.
    grown = plan.max_pixels / sizes.pixels
    spare = free * GB * 0.95 - plan.needed
    assert (grown - 1) * max(sizes.unet_working, sizes.vae_working) == pytest.approx(
        spare, rel=0.01
    )
    assert (plan.max_pixels > 4 * sizes.pixels) == (free - plan.needed / GB > 15)
