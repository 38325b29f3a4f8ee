from __future__ import annotations

import uuid

import pytest

from tests.support.api_server import FLOWS, GENERATIONS, IMAGES, assert_failure

pytestmark = pytest.mark.anyio


async def try_create(client, **body):
    return await client.post(GENERATIONS, json={"prompt": "a red fox", **body})


def named(record):
    return [(each["imageId"], each["alias"]) for each in record["referencedImages"]]


# References


async def test_a_reference_is_named_by_its_id_or_an_alias(client):
    logo, other = await client.upload(alias="@logo"), await client.upload()
    record = await client.create(referenceImages=["@logo", other["id"].upper()])
    assert named(record) == [(logo["id"], "@logo"), (other["id"], None)]
    assert record["referenceImages"] == [
        {"id": logo["id"], "storageUrl": logo["storageUrl"], "alias": "@logo"},
        {"id": other["id"], "storageUrl": other["storageUrl"], "alias": None},
    ]
    assert record["referenceMode"] is None
    assert record == await client.record(record["id"])
    assert (await client.listed())["data"] == [record]


async def test_the_technical_aliases_mean_images_of_the_project_or_of_the_flow(
    server, client, worker
):
    made = []
    for _ in range(3):
        server.clock.advance(milliseconds=1)
        made.append(await client.painted(worker))
    server.clock.advance(milliseconds=1)
    uploads = [await client.upload(), await client.upload(flowId=made[1]["flowId"])]
    everywhere = await client.create(referenceImages=["@first", "@last"])
    assert named(everywhere) == [
        (made[0]["outputImageId"], "@first"),
        (made[2]["outputImageId"], "@last"),
    ]
    in_flow = await client.create(
        referenceImages=["@last", "@upload", "@first"], flowId=made[1]["flowId"]
    )
    # Each image once, though it has two names.
    assert named(in_flow) == [(made[1]["outputImageId"], "@last"), (uploads[1]["id"], "@upload")]
    elsewhere = await try_create(client, referenceImages=["@last"], flowId=str(uuid.uuid4()))
    assert_failure(elsewhere, 400, "VALIDATION_ERROR", "referenceImages")


async def test_an_alias_of_the_flow_goes_before_one_of_the_project(client):
    of_project = await client.upload(alias="@hero")
    of_flow = await client.upload(flowAlias="@hero")
    in_flow = await client.create(referenceImages=["@hero"], flowId=of_flow["flowId"])
    assert named(in_flow) == [(of_flow["id"], "@hero")]
    outside = await client.create(referenceImages=["@hero"])
    assert named(outside) == [(of_project["id"], "@hero")]


@pytest.mark.parametrize(
    ("prompt", "is_found"),
    [
        ("@logo on a mug", True),
        ("a mug with @logo", True),
        ("a mug with\n@logo, in red", True),
        ("write to me@logo", False),
        ("a mug with '@logo'", False),
        ("a mug with @logos", False),
    ],
)
async def test_an_alias_in_the_prompt_is_found_by_itself(client, prompt, is_found):
    image = await client.upload(alias="@logo")
    record = await client.create(prompt=prompt)
    assert named(record) == ([(image["id"], "@logo")] if is_found else [])
    assert record["originalPrompt"] == prompt
    assert record["warnings"] == []


async def test_the_listed_ones_go_first_and_three_are_used_at_most(client):
    images = [await client.upload(alias=f"@a{number}") for number in range(5)]
    record = await client.create(prompt="@a0 and @a1 and @a2 and @a3", referenceImages=["@a2"])
    assert named(record) == [(images[n]["id"], f"@a{n}") for n in (2, 0, 1)]
    [warning] = record["warnings"]
    assert "@a3" in warning
    four = await try_create(client, referenceImages=[f"@a{n}" for n in range(4)])
    assert_failure(four, 400, "VALIDATION_ERROR", "referenceImages")


async def test_an_unknown_reference_is_refused_by_its_name(server, client):
    foreign = await server.client().upload(alias="@theirs")
    for reference in ("@nothing", "@theirs", foreign["id"], str(uuid.uuid4()), "x", "@last"):
        response = await try_create(client, referenceImages=[reference])
        error = assert_failure(response, 400, "VALIDATION_ERROR", "referenceImages")
        assert reference in error["message"]
    assert server.generations_of(client) == []


async def test_an_alias_that_moves_later_leaves_what_was_submitted(client):
    first, second = await client.upload(alias="@logo"), await client.upload()
    record = await client.create(referenceImages=["@logo"])
    await client.put(f"{IMAGES}/@logo/alias", json={"alias": None})
    await client.put(f"{IMAGES}/{second['id']}/alias", json={"alias": "@logo"})
    assert named(await client.record(record["id"])) == [(first["id"], "@logo")]


# What goes with them


async def test_the_parameters_of_a_picture_from_pictures_stand_in_the_record(client):
    image, mask = await client.upload(alias="@room"), await client.upload(alias="@hole")
    record = await client.create(
        referenceImages=["@room"],
        referenceStrength=0.25,
        mask="@hole",
        upscale=1.5,
        outputFormat="jpeg",
        quality=80.0,
        size="192x128",
    )
    shown = {
        "referenceStrength": 0.25,
        "mask": mask["id"],
        "upscale": 1.5,
        "outputFormat": "jpeg",
        "quality": 80,
        "size": "192x128",
        "aspectRatio": "3:2",
    }
    assert {name: record[name] for name in shown} == shown
    assert named(record) == [(image["id"], "@room")]
    plain = await client.create()
    defaults = dict.fromkeys(shown) | {"outputFormat": "png", "aspectRatio": "1:1"}
    assert {name: plain[name] for name in shown} == defaults


@pytest.mark.parametrize(
    ("size", "ratio"),
    [
        ("64x64", "1:1"),
        ("192x128", "3:2"),
        ("256x144", "16:9"),
        ("144x256", "9:16"),
        ("320x128", "21:9"),
        ("128x256", "9:16"),
        # Twice the model's own number of pixels.
        ("512x256", "16:9"),
    ],
)
async def test_the_nearest_aspect_ratio_of_a_size_is_recorded(client, size, ratio):
    assert (await client.create(size=size))["aspectRatio"] == ratio


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"size": "100x100"}, "size"),
        ({"size": "56x64"}, "size"),
        ({"size": "2056x512"}, "size"),
        ({"size": "520x256"}, "size"),
        ({"size": "512"}, "size"),
        ({"size": "512 x 512"}, "size"),
        ({"size": "128x128", "aspectRatio": "1:1"}, "size"),
        ({"upscale": 0.9}, "upscale"),
        ({"upscale": 2.1}, "upscale"),
        ({"quality": 0, "outputFormat": "jpeg"}, "quality"),
        ({"quality": 101, "outputFormat": "jpeg"}, "quality"),
        ({"quality": 80}, "quality"),
        ({"quality": 80, "outputFormat": "png"}, "quality"),
        ({"outputFormat": "gif"}, "outputFormat"),
        ({"referenceStrength": 0.5}, "referenceStrength"),
        ({"referenceStrength": 1.1, "referenceImages": ["@room"]}, "referenceStrength"),
        ({"mask": "@room"}, "mask"),
        ({"mask": "@nothing", "referenceImages": ["@room"]}, "mask"),
        ({"referenceImages": "@room"}, "referenceImages"),
        ({"alias": "logo"}, "alias"),
        ({"alias": "@upload"}, "alias"),
        ({"flowAlias": "@first"}, "flowAlias"),
        ({"flowAlias": "@hero", "flowId": None}, "flowAlias"),
        ({"flowId": "x"}, "flowId"),
    ],
)
async def test_what_cannot_be_carried_out_is_refused_by_its_name(server, client, body, field):
    await client.upload(alias="@room")
    assert_failure(await try_create(client, **body), 400, "VALIDATION_ERROR", field)
    assert server.generations_of(client) == []


# Names


async def test_a_new_image_takes_its_names_over_when_it_succeeds(client, worker):
    before = await client.upload(alias="@logo", flowAlias="@hero")
    body = {"alias": "@logo", "flowAlias": "@hero", "flowId": before["flowId"]}
    created = await client.create(autoEnhance=False, **body)
    assert {name: created[name] for name in body} == body
    worker.begin(created["id"])
    assert (await client.get(f"{IMAGES}/@logo")).json()["data"]["id"] == before["id"]
    worker.succeed(created["id"])
    output = (await client.record(created["id"]))["outputImageId"]
    image = (await client.get(f"{IMAGES}/@logo")).json()["data"]
    assert (image["id"], image["flowId"]) == (output, before["flowId"])
    assert (await client.get(f"{IMAGES}/{before['id']}")).json()["data"]["alias"] is None
    flow = (await client.get(f"{FLOWS}/{before['flowId']}")).json()["data"]
    assert flow["aliases"] == {"@hero": output}


async def test_a_generation_that_fails_takes_no_name(client, worker):
    before = await client.upload(alias="@logo")
    created = await client.create(autoEnhance=False, alias="@logo")
    worker.fail(created["id"], "no paint left")
    assert (await client.get(f"{IMAGES}/@logo")).json()["data"] == before
