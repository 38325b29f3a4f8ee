"""`sampler`, `scheduler` and `promptSyntax` of a generation."""

from __future__ import annotations

import pytest

from tests.support.api_server import GENERATIONS, assert_failure

pytestmark = pytest.mark.anyio


async def test_the_sampler_is_recorded_by_its_exact_name(client):
    record = await client.create(sampler="dpm++ 2m karras")
    assert (record["sampler"], record["scheduler"]) == ("DPM++ 2M", "Karras")
    record = await client.create(sampler="Euler", scheduler="automatic")
    assert (record["sampler"], record["scheduler"]) == ("Euler", None)
    record = await client.create()
    assert record["sampler"] is record["scheduler"] is None


@pytest.mark.parametrize(
    ("body", "field", "text"),
    [
        ({"sampler": "Restart"}, "sampler", "there are: Euler"),
        ({"sampler": "Euler a"}, "sampler", "banatie-small cannot use Euler a; it can use: Euler,"),
        ({"sampler": "DDIM", "scheduler": "Karras"}, "scheduler", "does not go with DDIM"),
        ({"sampler": "Euler", "scheduler": "Beta"}, "scheduler", "there are: Automatic"),
        ({"scheduler": "Karras"}, "scheduler", "give sampler too"),
        ({"promptSyntax": "comfy"}, "promptSyntax", ""),
    ],
)
async def test_what_the_model_cannot_use_is_refused_by_name(client, body, field, text):
    response = await client.post(GENERATIONS, json={"prompt": "a fox", **body})
    assert text in assert_failure(response, 400, "VALIDATION_ERROR", field)["message"]


async def test_weights_are_warned_of_where_they_are_read_as_words(client):
    plain = await client.create(prompt="a (red:1.3) fox")
    assert plain["promptSyntax"] == "plain"
    assert "(red:1.3)" in plain["warnings"][0]
    weighted = await client.create(prompt="a (red:1.3) fox BREAK a dog", promptSyntax="webui")
    assert (weighted["promptSyntax"], weighted["warnings"]) == ("webui", [])
    other = await client.create(prompt="a {red|blue} fox", promptSyntax="webui")
    assert other["warnings"][0].startswith("Wildcards, alternatives")
