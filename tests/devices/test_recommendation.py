"""Which models are named for which machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from banatie.devices.recommendation import LARGE_LANGUAGE_MODELS, recommend
from banatie.models.catalog import Catalog

GB = 10**9
SMALL, LARGE = "smollm2-135m-instruct", "qwen2.5-1.5b-instruct"


@pytest.mark.parametrize(
    ("device", "free", "painting", "language"),
    [
        ("cpu", 128, "banatie-small", SMALL),
        ("cuda", 2, "banatie-small", SMALL),
        ("cuda", 5.6, "sdxl-lightning-4step", SMALL),
        ("cuda", 7.6, "sdxl-lightning-4step", SMALL),
        ("cuda", 10, "sdxl-lightning-4step", SMALL),
        ("cuda", 15.5, "sdxl-lightning-4step", LARGE),
        ("cuda:1", 23.5, "sdxl-lightning-4step", LARGE),
        ("mps", 8, "banatie-small", SMALL),
        ("mps", 24, "sdxl-lightning-4step", LARGE),
    ],
)
def test_what_fits(tmp_path: Path, device: str, free: float, painting: str, language: str) -> None:
    advice = recommend(device, int(free * GB), Catalog(tmp_path).language_models)
    assert (advice.painting, advice.language) == (painting, language)


def test_what_is_named_is_in_the_catalog_under_an_open_licence(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    for name in LARGE_LANGUAGE_MODELS:
        assert catalog.entry(name).licence == "Apache-2.0"
        assert not catalog.entry(name).model.note
    assert all(model.parameters for model in catalog.language_models)
