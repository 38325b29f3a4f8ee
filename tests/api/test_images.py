from __future__ import annotations

import io
from email.utils import formatdate, parsedate_to_datetime

import pytest
from PIL import Image as PillowImage

from banatie.errors import ValidationError
from tests.support.api_server import ADDRESS, assert_failure

pytestmark = pytest.mark.anyio


@pytest.fixture
async def picture(server, client, worker):
    """The URL of a picture, and its bytes."""
    created = await client.create(autoEnhance=False)
    content = worker.paint(created["id"])
    image = (await client.record(created["id"]))["outputImage"]
    return image["storageUrl"], content


@pytest.fixture
def visitor(server):
    """Somebody without a key."""
    return server.visitor()


async def test_the_storage_url_gives_exactly_the_picture(server, client, worker, visitor):
    created = await client.create(autoEnhance=False)
    content = worker.paint(created["id"])
    image = (await client.record(created["id"]))["outputImage"]
    response = await visitor.get(image["storageUrl"])
    assert response.status_code == 200
    assert response.content == content
    assert response.headers["content-type"] == image["mimeType"]
    assert int(response.headers["content-length"]) == image["fileSize"] == len(content)
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["x-content-type-options"] == "nosniff"
    opened = PillowImage.open(io.BytesIO(response.content))
    assert opened.size == (image["width"], image["height"])
    assert PillowImage.MIME[opened.format] == image["mimeType"]


async def test_head_says_what_get_would(visitor, picture):
    url, _ = picture
    get, head = await visitor.get(url), await visitor.head(url)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("content-type", "content-length", "etag", "last-modified", "accept-ranges"):
        assert head.headers[name] == get.headers[name]


async def test_what_the_client_has_already_is_304(visitor, picture):
    url, _ = picture
    etag = (await visitor.get(url)).headers["etag"]
    for value in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = await visitor.get(url, headers={"If-None-Match": value})
        assert response.status_code == 304
        assert response.content == b""
        assert response.headers["etag"] == etag
    for value in ('"other"', "", etag.strip('"')):
        response = await visitor.get(url, headers={"If-None-Match": value})
        assert response.status_code == 200


async def test_what_has_not_been_modified_since_is_304(visitor, picture):
    url, _ = picture
    modified = (await visitor.get(url)).headers["last-modified"]
    response = await visitor.get(url, headers={"If-Modified-Since": modified})
    assert response.status_code == 304
    earlier = formatdate(parsedate_to_datetime(modified).timestamp() - 1, usegmt=True)
    response = await visitor.get(url, headers={"If-Modified-Since": earlier})
    assert response.status_code == 200


async def test_an_etag_counts_more_than_a_date(visitor, picture):
    url, _ = picture
    modified = (await visitor.get(url)).headers["last-modified"]
    headers = {"If-None-Match": '"other"', "If-Modified-Since": modified}
    assert (await visitor.get(url, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("wanted", "first", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-9", 0, 10),
        ("bytes=10-19", 10, 20),
        ("bytes=5-", 5, None),
        ("bytes=-7", -7, None),
        ("bytes=-999999", 0, None),
        ("bytes=3-999999", 3, None),
    ],
)
async def test_a_range_gives_these_bytes(visitor, picture, wanted, first, end):
    url, content = picture
    response = await visitor.get(url, headers={"Range": wanted})
    expected = content[first:end]
    start = content.index(expected) if first else 0
    assert response.status_code == 206
    assert response.content == expected
    assert response.headers["content-length"] == str(len(expected))
    assert response.headers["content-range"] == (
        f"bytes {start}-{start + len(expected) - 1}/{len(content)}"
    )
    assert response.headers["content-type"] == "image/png"


async def test_the_last_byte_alone(visitor, picture):
    url, content = picture
    last = len(content) - 1
    response = await visitor.get(url, headers={"Range": f"bytes={last}-{last}"})
    assert response.status_code == 206
    assert response.content == content[-1:]


@pytest.mark.parametrize("wanted", ["bytes=999999-", "bytes=999999-1000000", "bytes=-0"])
async def test_a_range_beyond_the_end_is_416(visitor, picture, wanted):
    url, content = picture
    response = await visitor.get(url, headers={"Range": wanted})
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{len(content)}"


@pytest.mark.parametrize(
    "wanted", ["bytes=0-1,5-6", "bytes=", "bytes=-", "bytes=a-b", "lines=0-5", "0-5", ""]
)
async def test_a_range_that_is_none_or_several_gives_the_whole(visitor, picture, wanted):
    url, content = picture
    response = await visitor.get(url, headers={"Range": wanted})
    assert response.status_code == 200
    assert response.content == content


async def test_if_range_gives_the_range_of_the_same_picture_only(visitor, picture):
    url, content = picture
    etag = (await visitor.get(url)).headers["etag"]
    response = await visitor.get(url, headers={"Range": "bytes=0-3", "If-Range": etag})
    assert response.status_code == 206
    assert response.content == content[:4]
    for other in ('"other"', f"W/{etag}", "Mon, 01 Jan 2001 00:00:00 GMT"):
        response = await visitor.get(url, headers={"Range": "bytes=0-3", "If-Range": other})
        assert response.status_code == 200
        assert response.content == content


async def test_head_knows_no_ranges(visitor, picture):
    url, content = picture
    response = await visitor.head(url, headers={"Range": "bytes=0-3"})
    assert response.status_code == 200
    assert response.headers["content-length"] == str(len(content))


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=" + "9" * 5000 + "-"},
        {"Range": "bytes=0-" + "9" * 5000},
        {"Range": "bytes=-" + "9" * 5000},
        {"If-Modified-Since": "yesterday"},
        {"If-Modified-Since": "Mon, 99 Jan 2024 00:00:00 GMT"},
        {"If-Modified-Since": "Mon, 01 Jan 2024 00:00:00 +9999999999999999999"},
        {"If-Modified-Since": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"},
        {"If-None-Match": ","},
    ],
    ids=lambda headers: repr(headers)[:50],
)
async def test_strange_headers_break_nothing(visitor, picture, headers):
    url, _ = picture
    response = await visitor.get(url, headers=headers)
    assert response.status_code in (200, 206, 416)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_pictures_can_only_be_read(visitor, picture, method):
    url, content = picture
    response = await visitor.request(method, url)
    assert_failure(response, 405, "METHOD_NOT_ALLOWED")
    assert {name.strip() for name in response.headers["allow"].split(",")} >= {"GET", "HEAD"}
    assert (await visitor.get(url)).content == content


@pytest.mark.parametrize(
    "attempt",
    [
        "",
        "/",
        "/{folder}",
        "/{folder}/",
        "/{folder}/{file}.part",
        "/{folder}/{file}/..",
        "/../banatie.db",
        "/..%2Fbanatie.db",
        "/%2E%2E/banatie.db",
        "/default/../../banatie.db",
        "/{folder}/..%2f..%2f..%2f..%2fbanatie.db",
        "/{folder}/..%5C..%5Cbanatie.db",
        "/{folder}/{file}%00",
        "/{folder}/{file}%0A",
        "//etc/passwd",
        "/%2Fetc%2Fpasswd",
    ],
)
async def test_nothing_but_a_picture_is_ever_served(server, visitor, picture, attempt):
    folder, _, file = picture[0].removeprefix(f"{ADDRESS}/storage/").rpartition("/")
    (server.data / "storage" / folder / f"{file}.part").write_bytes(b"half a picture")
    url = f"{ADDRESS}/storage{attempt.format(folder=folder, file=file)}"
    assert_failure(await visitor.get(url), 404, "NOT_FOUND")


async def test_a_picture_that_is_not_there_is_404(visitor, picture):
    url = picture[0]
    other = "00000000-0000-4000-8000-000000000000.png"
    assert_failure(await visitor.get(url[: -len(other)] + other), 404, "NOT_FOUND")


@pytest.mark.parametrize("organization", ["acme_co", "ACME", "a b", "größe", "a/b", "..", "", "a?"])
async def test_pictures_of_every_organization_that_can_be_made_are_served(
    server, worker, visitor, organization
):
    try:
        client = server.client(organization_slug=organization)
    except ValidationError:
        return
    created = await client.create(autoEnhance=False)
    content = worker.paint(created["id"])
    image = (await client.record(created["id"]))["outputImage"]
    response = await visitor.get(image["storageUrl"])
    assert response.status_code == 200, f"{image['storageUrl']} is {response.status_code}"
    assert response.content == content
