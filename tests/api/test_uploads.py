from __future__ import annotations

import asyncio
import io
import json
import uuid

import pytest
from PIL import Image as PillowImage

from banatie.limits import MAX_UPLOAD_BYTES
from tests.support.api_server import FLOWS, IMAGES, assert_failure, picture_bytes

pytestmark = pytest.mark.anyio

KEYS = {
    *("id", "projectId", "flowId", "generationId", "storageKey", "storageUrl", "mimeType"),
    *("fileSize", "width", "height", "source", "alias", "focalPoint", "meta", "createdAt"),
}


def encoded(form: str) -> bytes:
    buffer = io.BytesIO()
    PillowImage.effect_noise((40, 24), 60).convert("RGB").save(buffer, form)
    return buffer.getvalue()


def stored_files(server, client):
    return sorted((server.data / "storage").glob(f"*/{client.project_id}/uploaded/*"))


@pytest.mark.parametrize(
    ("form", "mime_type", "suffix"),
    [("PNG", "image/png", "png"), ("JPEG", "image/jpeg", "jpg"), ("WEBP", "image/webp", "webp")],
)
async def test_an_upload_is_stored_and_served_as_what_its_bytes_are(
    server, client, form, mime_type, suffix
):
    # The name says PNG in all cases.
    data = await client.upload(encoded(form), alias="@logo", meta=json.dumps({"order": 7}))
    assert set(data) == KEYS
    assert (data["mimeType"], data["width"], data["height"]) == (mime_type, 40, 24)
    assert (data["source"], data["alias"], data["meta"]) == ("uploaded", "@logo", {"order": 7})
    assert (data["focalPoint"], data["generationId"]) == (None, None)
    assert data["projectId"] == client.project_id
    assert data["storageKey"].endswith(f"/uploaded/{data['id']}.{suffix}")
    served = await server.visitor().get(data["storageUrl"])
    assert served.status_code == 200
    assert served.headers["content-type"] == mime_type
    assert len(served.content) == data["fileSize"]
    assert PillowImage.open(io.BytesIO(served.content)).size == (40, 24)
    assert (await client.get(f"{IMAGES}/{data['id']}")).json()["data"] == data


async def test_without_a_flow_id_one_is_offered_and_null_is_none(client):
    offered = await client.upload()
    assert uuid.UUID(offered["flowId"])
    assert_failure(await client.get(f"{FLOWS}/{offered['flowId']}"), 404, "FLOW_NOT_FOUND")
    assert (await client.upload(flowId="null"))["flowId"] is None
    again = await client.upload(flowId=offered["flowId"].upper())
    assert again["flowId"] == offered["flowId"]
    flow = (await client.get(f"{FLOWS}/{offered['flowId']}")).json()["data"]
    assert (flow["imageCount"], flow["generationCount"]) == (2, 0)


async def test_a_name_in_the_flow_makes_the_flow_at_once(client):
    data = await client.upload(flowAlias="@hero")
    flow = (await client.get(f"{FLOWS}/{data['flowId']}")).json()["data"]
    assert flow["aliases"] == {"@hero": data["id"]}
    assert data["alias"] is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"alias": "logo"}, "alias"),
        ({"alias": "@"}, "alias"),
        ({"alias": "@a b"}, "alias"),
        ({"alias": "@é"}, "alias"),
        ({"alias": "@" + "a" * 100}, "alias"),
        ({"alias": "@last"}, "alias"),
        ({"alias": "@First"}, "alias"),
        ({"alias": "@upload"}, "alias"),
        ({"flowAlias": "hero"}, "flowAlias"),
        ({"flowAlias": "@hero", "flowId": "null"}, "flowAlias"),
        ({"flowId": "no-uuid"}, "flowId"),
        ({"meta": "[1]"}, "meta"),
        ({"meta": "{"}, "meta"),
        ({"meta": "x"}, "meta"),
        ({"meta": json.dumps({"a": "x" * 20_000})}, "meta"),
        ({"name": "x"}, "name"),
        ({"alias": ["@a", "@b"]}, "alias"),
    ],
)
async def test_a_wrong_field_is_refused_by_its_name(server, client, fields, field):
    assert_failure(await client.try_upload(**fields), 400, "VALIDATION_ERROR", field)
    assert stored_files(server, client) == []


async def test_an_alias_of_a_hundred_characters_is_taken(client):
    alias = "@" + "a" * 99
    assert (await client.upload(alias=alias))["alias"] == alias


@pytest.mark.parametrize(
    "content",
    [b"", b"no picture", picture_bytes()[:-40], b"GIF89a" + bytes(100), b"%PDF-1.7"],
)
async def test_what_is_no_whole_picture_is_refused(server, client, content):
    assert_failure(await client.try_upload(content), 400, "VALIDATION_ERROR", "file")
    assert stored_files(server, client) == []


async def test_a_form_without_a_file_is_refused(client):
    missing = await client.post(f"{IMAGES}/upload", files={"alias": (None, "@a")})
    assert_failure(missing, 400, "VALIDATION_ERROR", "file")
    no_name = await client.post(f"{IMAGES}/upload", files={"file": (None, "text")})
    assert_failure(no_name, 400, "VALIDATION_ERROR", "file")
    twice = [("file", ("a.png", picture_bytes())), ("file", ("b.png", picture_bytes()))]
    assert_failure(
        await client.post(f"{IMAGES}/upload", files=twice), 400, "VALIDATION_ERROR", "file"
    )


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"Content-Type": "multipart/form-data"}, b"x"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"no form"),
        (
            {"Content-Type": "multipart/form-data; boundary=b"},
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n\xff\xfe\r\n--b--\r\n',
        ),
        (
            {"Content-Type": "multipart/form-data; boundary=b"},
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\nx',
        ),
    ],
)
async def test_a_broken_form_is_a_400(client, headers, content):
    response = await client.post(f"{IMAGES}/upload", content=content, headers=headers)
    assert_failure(response, 400, "VALIDATION_ERROR")


async def test_what_is_no_form_is_415(client):
    response = await client.post(f"{IMAGES}/upload", json={"file": "x"})
    assert_failure(response, 415, "UNSUPPORTED_MEDIA_TYPE")
    form = await client.post(f"{IMAGES}/{uuid.uuid4()}/alias", files={"alias": (None, "@a")})
    assert form.status_code == 405 or form.status_code == 415


async def test_more_than_five_megabytes_are_413(server, client):
    padded = picture_bytes() + bytes(MAX_UPLOAD_BYTES)
    assert_failure(await client.try_upload(padded), 413, "PAYLOAD_TOO_LARGE")
    assert_failure(await client.try_upload(padded * 2), 413, "PAYLOAD_TOO_LARGE")
    assert stored_files(server, client) == []


async def test_two_uploads_that_take_one_alias_at_once(server, client):
    answers = await asyncio.gather(*(client.try_upload(alias="@logo") for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    for answer in answers:
        if answer.status_code == 409:
            assert "@logo" in assert_failure(answer, 409, "ALIAS_CONFLICT")["message"]
    assert len(stored_files(server, client)) == 1


async def test_an_alias_is_one_projects_own(server, client):
    await client.upload(alias="@logo")
    other = server.client()
    assert (await other.upload(alias="@logo"))["alias"] == "@logo"


async def test_metadata_is_left_out_unless_it_is_to_be_kept(tmp_path, server, client):
    from tests.support.api_server import serving

    exif = PillowImage.Exif()
    exif[0x010F] = "A camera"
    buffer = io.BytesIO()
    PillowImage.effect_noise((40, 24), 60).convert("RGB").save(buffer, "JPEG", exif=exif)

    async def kept(running, owner) -> str | None:
        url = (await owner.upload(buffer.getvalue()))["storageUrl"]
        content = (await running.visitor().get(url)).content
        return PillowImage.open(io.BytesIO(content)).getexif().get(0x010F)

    assert await kept(server, client) is None
    async with serving(tmp_path, images__keep_metadata=True) as keeping:
        assert await kept(keeping, keeping.client()) == "A camera"
