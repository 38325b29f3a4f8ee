from __future__ import annotations

import pytest

from tests.support.api_server import GENERATIONS, assert_failure

pytestmark = pytest.mark.anyio

FIELDS = [
    ("prompt", [None, 5, True, [], {}, "", "   ", "\n\t", "x" * 4001]),
    ("aspectRatio", ["4:3", "16:9 ", "", 1, []]),
    ("autoEnhance", ["true", "false", "yes", 1, 0, {}]),
    ("enhancementOptions", ["general", [], 3]),
    ("enhancementOptions.template", ["anime", "General", "", 3, []]),
    ("enhancementOptions.style", ["bold"]),
    ("meta", [[], "x", 5, True, {"long": "x" * 17000}]),
    ("seed", [-1, 2**53, 2**70, 1.5, "7", "", True, []]),
    ("negativePrompt", [5, [], "x" * 4001]),
    ("steps", [0, 101, -1, 2.5, "20", True, []]),
    ("guidanceScale", [-0.1, 20.1, "7", "", True, []]),
    ("loras", ["pixel-art", {}, 3, [{"name": "none"}]]),
    ("count", [1, 2]),
    ("aspect_ratio", ["1:1"]),
]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param(field, value, id=f"{field}={value!r}"[:40])
        for field, values in FIELDS
        for value in values
    ],
)
async def test_a_wrong_parameter_is_refused_by_its_name(refused, field, value):
    section, _, name = field.partition(".")
    body = {"prompt": "a red fox", section: {name: value} if name else value}
    response = await refused.post(GENERATIONS, json=body)
    error = assert_failure(response, 400, "VALIDATION_ERROR", field)
    assert field in error["message"]


async def test_a_missing_prompt_is_refused_by_its_name(refused):
    response = await refused.post(GENERATIONS, json={"aspectRatio": "1:1"})
    assert_failure(response, 400, "VALIDATION_ERROR", "prompt")


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"a red fox"', b"true", b""])
async def test_a_body_that_is_no_object_is_refused(refused, body):
    response = await refused.post(
        GENERATIONS, content=body, headers={"Content-Type": "application/json"}
    )
    assert_failure(response, 400, "VALIDATION_ERROR", "body")


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "-1"),
        ("limit", "ten"),
        ("limit", "1.5"),
        ("limit", ""),
        ("limit", "99999999999999999999999"),
        ("offset", "-1"),
        ("offset", "x"),
        ("offset", "0.5"),
        ("offset", "99999999999999999999999"),
        ("status", "done"),
        ("status", "PENDING"),
        ("status", ""),
        ("includeDeleted", "maybe"),
        ("includeDeleted", "2"),
        ("includeDeleted", ""),
    ],
)
async def test_a_wrong_query_parameter_is_refused_by_its_name(refused, parameter, value):
    response = await refused.get(GENERATIONS, params={parameter: value})
    error = assert_failure(response, 400, "VALIDATION_ERROR", parameter)
    assert parameter in error["message"]


@pytest.mark.parametrize("value", ["maybe", "", "2"])
async def test_a_wrong_soft_deletes_nothing(client, value):
    created = await client.create()
    response = await client.delete(f"{GENERATIONS}/{created['id']}", params={"soft": value})
    assert_failure(response, 400, "VALIDATION_ERROR", "soft")
    assert (await client.record(created["id"]))["deletedAt"] is None


@pytest.mark.parametrize(
    "wish",
    [
        {"prompt": "x" * 4000},
        {"seed": 0},
        {"seed": 2**53 - 1},
        {"steps": 1},
        {"steps": 100},
        {"guidanceScale": 0},
        {"guidanceScale": 20},
        {"meta": {"text": "x" * 16000}},
        {"meta": {"text": "я" * 8000}},
        {"negativePrompt": "x" * 4000},
        {"enhancementOptions": {}},
    ],
    ids=lambda wish: next(iter(wish)),
)
async def test_the_bounds_themselves_are_allowed(client, wish):
    data = await client.create(**wish)
    assert data["status"] == "pending"


@pytest.mark.parametrize("limit", [1, 100])
async def test_the_smallest_and_the_largest_page_are_allowed(client, limit):
    assert (await client.listed(limit=limit))["pagination"]["limit"] == limit


@pytest.mark.parametrize("value", [1 << 70, -(1 << 70), 1e22, 0.1, -0.0])
async def test_numbers_in_meta_never_break_the_record(client, value):
    created = await client.create(meta={"number": value})
    assert created["meta"]["number"] == pytest.approx(value)
    assert (await client.record(created["id"]))["meta"] == created["meta"]
    assert (await client.listed())["data"] == [created]


@pytest.mark.parametrize("depth", [100, 900, 950, 990, 1000])
async def test_meta_of_any_depth_is_refused_or_can_be_read_again(client, depth):
    body = b'{"prompt": "x", "meta": {"deep": ' + b"[" * depth + b"]" * depth + b"}}"
    response = await client.post(
        GENERATIONS, content=body, headers={"Content-Type": "application/json"}
    )
    if response.status_code == 400:
        assert_failure(response, 400, "VALIDATION_ERROR")
        assert (await client.listed())["data"] == []
    else:
        assert response.status_code == 201, response.text
        assert len((await client.listed())["data"]) == 1


OPTIONAL = {
    "aspectRatio": "1:1",
    "autoEnhance": True,
    "template": "general",
    "meta": {},
    "negativePrompt": "",
    "steps": None,
    "guidanceScale": None,
    "loras": [],
}


@pytest.mark.parametrize(
    "body", [{}, {"enhancementOptions": None}, {"enhancementOptions": {"template": None}}]
)
async def test_null_is_not_given_in_every_optional_field(client, body):
    """Clients that send every field of theirs send null for what the user left open."""
    nulls = dict.fromkeys([*OPTIONAL, "seed"])
    del nulls["template"]
    data = await client.create(**nulls, **body)
    assert {name: data[name] for name in OPTIONAL} == OPTIONAL
    assert isinstance(data["seed"], int)


async def test_a_prompt_that_is_null_is_refused(refused):
    response = await refused.post(GENERATIONS, json={"prompt": None})
    assert_failure(response, 400, "VALIDATION_ERROR", "prompt")


async def test_whole_numbers_may_be_written_with_a_point(client):
    data = await client.create(seed=42.0, steps=20.0)
    assert (data["seed"], data["steps"]) == (42, 20)
    assert all(type(data[name]) is int for name in ("seed", "steps"))


async def test_the_largest_seed_stays_exact(client):
    assert (await client.create(seed=2**53 - 1))["seed"] == 2**53 - 1
