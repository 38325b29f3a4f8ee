"""LoRAs in a request: those that are here, by their names, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.api_server import GENERATIONS, add_lora, assert_failure, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("pixel-art", "ink"):
        add_lora(tmp_path / "models", name)
    add_lora(tmp_path / "models", "sdxl", kind="painting")
    # What is not finished, and what Banatie has not brought, are none.
    add_lora(tmp_path / "models", ".importing")
    (tmp_path / "models" / "by-hand").mkdir()
    (tmp_path / "models" / "broken").mkdir()
    (tmp_path / "models" / "broken" / "banatie.json").write_text("{")
    return tmp_path / "models"


@pytest.fixture
async def server(tmp_path, models):
    async with serving(tmp_path / "data", storage__models_dir=str(models)) as running:
        yield running


async def test_a_request_names_its_loras_and_the_record_keeps_them(client):
    data = await client.create(loras=[{"name": "pixel-art", "weight": -0.5}, {"name": "ink"}])
    shown = [{"name": "pixel-art", "weight": -0.5}, {"name": "ink", "weight": 1.0}]
    assert data["loras"] == shown
    assert (await client.record(data["id"]))["loras"] == shown
    assert (await client.create())["loras"] == []
    told = (await client.get("/api/info")).json()["data"]
    assert told["loras"] == ["ink", "pixel-art"]
    listed = (await client.listed())["data"]
    assert sorted(len(record["loras"]) for record in listed) == [0, 2]


async def test_the_worker_is_handed_them(client, server):
    data = await client.create(loras=[{"name": "ink", "weight": 4}], autoEnhance=False)
    taken = server.worker.take("paint", data["id"])
    assert [(lora.name, lora.weight) for lora in taken.loras] == [("ink", 4.0)]


@pytest.mark.parametrize(
    ("loras", "field", "message"),
    [
        (
            [{"name": "pixelart"}],
            "loras",
            "no LoRA called 'pixelart' is installed; installed are: ink, p",
        ),
        ([{"name": "sdxl"}], "loras", "no LoRA called 'sdxl'"),
        ([{"name": ".importing"}], "loras", "no LoRA called '.importing'"),
        ([{"name": "../models/ink"}], "loras", "no LoRA called '../models/ink'"),
        ([{"name": "by-hand"}], "loras", "no LoRA called 'by-hand'"),
        ([{"name": ""}], "loras", "no LoRA called ''"),
        ([{"name": "ink"}, {"name": "ink"}], "loras", "'ink' is named more than once"),
        ([{"name": "ink"}] * 5, "loras", "length <= 4"),
        ([{}], "loras", "name"),
        ([{"name": 3}], "loras", "str"),
        ([{"name": "ink", "weight": 4.1}], "loras", "<= 4"),
        ([{"name": "ink", "weight": -4.1}], "loras", ">= -4"),
        ([{"name": "ink", "weight": "1"}], "loras", "float"),
        ([{"name": "ink", "strength": 1}], "loras", "strength"),
    ],
)
async def test_what_is_no_lora_is_refused(client, loras, field, message):
    response = await client.post(GENERATIONS, json={"prompt": "a fox", "loras": loras})
    error = assert_failure(response, 400, "VALIDATION_ERROR")
    assert error["details"][0]["field"].startswith(field), error
    assert message in error["message"]
    assert (await client.listed())["data"] == []


async def test_where_there_are_none_it_says_how_to_get_one(tmp_path):
    async with serving(tmp_path, storage__models_dir=str(tmp_path / "nothing")) as server:
        body = {"prompt": "a fox", "loras": [{"name": "ink"}]}
        response = await server.client().post(GENERATIONS, json=body)
    assert "banatie models import" in assert_failure(response, 400, "VALIDATION_ERROR")["message"]


async def test_one_that_has_just_been_brought_is_known_at_once(client, models):
    add_lora(models, "new")
    assert (await client.create(loras=[{"name": "new"}]))["loras"][0]["name"] == "new"
