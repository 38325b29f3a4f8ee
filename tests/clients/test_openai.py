"""The `openai` package as people install it, against the whole service."""

from __future__ import annotations

import asyncio
import base64
import io
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest
from PIL import Image, ImageDraw

from tests.support.polling import wait_until_async
from tests.support.service import Service

LONG = {"steps": 100, "autoEnhance": False}
"""Of a generation that a test cancels."""
SHORT = {"steps": 2, "autoEnhance": False}


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{service.url}/v1", api_key=service.key, max_retries=0, timeout=60
    ) as client:
        yield client


def picture(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def png(mode: str = "RGB", size: tuple[int, int] = (96, 64), hole: bool = False) -> bytes:
    image = Image.new(mode, size, "red")
    if hole:
        ImageDraw.Draw(image).rectangle((0, 0, size[0] // 2, size[1]), fill=(0, 0, 0, 0))
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def newest(service: Service) -> dict:
    return service.records()[0]


# --- Generations ----------------------------------------------------------------------------------


def test_a_picture_comes_as_base64(client: openai.OpenAI, service: Service) -> None:
    answer = client.images.generate(prompt="a red cat", model="gpt-image-1", user="u-7")
    [item] = answer.data
    image = picture(item.b64_json)
    assert (image.format, item.url) == ("PNG", None)
    assert answer.size == f"{image.width}x{image.height}"
    assert (answer.output_format, answer.background, answer.quality) == ("png", "opaque", "medium")
    record = newest(service)
    assert item.id == record["id"]
    assert item.revised_prompt == record["prompt"] != "a red cat"
    assert record["meta"] == {"user": "u-7"}
    assert service.picture(record) == base64.b64decode(item.b64_json)


def test_a_url_comes_only_when_it_is_asked_for(client: openai.OpenAI, service: Service) -> None:
    answer = client.images.generate(prompt="a cat", response_format="url", extra_body=SHORT)
    assert answer.data[0].b64_json is None
    assert answer.data[0].url == newest(service)["outputImage"]["storageUrl"]


def test_fields_of_banatie_are_taken_in_both_spellings(
    client: openai.OpenAI, service: Service
) -> None:
    body = {
        "seed": 7,
        "steps": 3,
        "negative_prompt": "a dog",
        "guidanceScale": 2.5,
        "template": "comic",
        "autoEnhance": False,
    }
    answer = client.images.generate(prompt="a cat", extra_body=body)
    record = newest(service)
    assert (record["seed"], record["steps"], record["guidanceScale"]) == (7, 3, 2.5)
    assert (record["negativePrompt"], record["template"]) == ("a dog", "comic")
    assert (answer.data[0].revised_prompt, answer.data[0].seed) == ("a cat", 7)


def test_n_pictures_come_in_one_answer_and_differ(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a cat", n=3, extra_body={"seed": 5, **SHORT})
    assert [item.seed for item in answer.data] == [5, 6, 7]
    assert len({item.b64_json for item in answer.data}) == 3


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_the_output_format_and_its_compression(client: openai.OpenAI, image_format: str) -> None:
    sizes = []
    for compression in (100, 10):
        answer = client.images.generate(
            prompt="a cat",
            output_format=image_format,
            output_compression=compression,
            extra_body={"seed": 1, **SHORT},
        )
        assert picture(answer.data[0].b64_json).format == image_format.upper()
        assert answer.output_format == image_format
        sizes.append(len(answer.data[0].b64_json))
    assert sizes[1] < sizes[0]


def test_a_size_that_can_be_painted_is_painted(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a cat", size="72x64", extra_body=SHORT)
    assert picture(answer.data[0].b64_json).size == (72, 64)
    assert (answer.size, answer.warnings) == ("72x64", [])


def test_another_size_gives_the_nearest_and_says_so(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a cat", size="1536x1024", extra_body=SHORT)
    image = picture(answer.data[0].b64_json)
    assert answer.size == f"{image.width}x{image.height}" != "1536x1024"
    assert image.width / image.height == pytest.approx(1.5, rel=0.15)
    [warning] = answer.warnings
    assert "1536x1024" in warning
    assert answer.size in warning


def test_quality_changes_the_steps(client: openai.OpenAI, service: Service) -> None:
    steps = []
    for quality in ("low", "auto", "high"):
        client.images.generate(prompt="a cat", quality=quality, extra_body={"autoEnhance": False})
        steps.append(newest(service)["steps"])
    assert steps == sorted(set(steps))


def test_the_async_client(service: Service) -> None:
    async def paint() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{service.url}/v1", api_key=service.key, max_retries=0
        ) as client:
            answers = await asyncio.gather(
                *(client.images.generate(prompt=p, extra_body=SHORT) for p in ("a cat", "a dog"))
            )
        return [answer.data[0].revised_prompt for answer in answers]

    assert asyncio.run(paint()) == ["a cat", "a dog"]


# --- Streams --------------------------------------------------------------------------------------


def test_a_stream_has_previews_and_then_the_picture(client: openai.OpenAI) -> None:
    with client.images.generate(
        prompt="a cat",
        stream=True,
        partial_images=2,
        extra_body={"steps": 100, "autoEnhance": False, "size": "88x88"},
    ) as stream:
        *partial, completed = list(stream)
    assert 1 <= len(partial) <= 2
    for index, event in enumerate(partial):
        assert event.type == "image_generation.partial_image"
        assert event.partial_image_index == index
        assert picture(event.b64_json).format == "JPEG"
    assert completed.type == "image_generation.completed"
    assert picture(completed.b64_json).size == (88, 88)
    assert (completed.size, completed.output_format) == ("88x88", "png")
    assert completed.usage.total_tokens == 0


def test_a_stream_without_previews_has_one_event_for_each_picture(client: openai.OpenAI) -> None:
    events = client.images.generate(prompt="a cat", stream=True, n=2, extra_body=SHORT)
    assert [event.type for event in events] == ["image_generation.completed"] * 2


def test_an_async_stream(service: Service) -> None:
    async def paint() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{service.url}/v1", api_key=service.key, max_retries=0
        ) as client:
            stream = await client.images.generate(prompt="a cat", stream=True, extra_body=SHORT)
            return [event.type async for event in stream]

    assert asyncio.run(paint()) == ["image_generation.completed"]


def test_an_error_in_a_stream_is_raised(client: openai.OpenAI, service: Service) -> None:
    stream = client.images.generate(prompt="a cat", stream=True, extra_body=LONG)
    record = service.wait_until_painting(newest(service)["id"])
    service.request("POST", f"/api/v1/generations/{record['id']}/cancel")
    with pytest.raises(openai.APIError, match="Cancelled"):
        list(stream)


# --- Edits and variations -------------------------------------------------------------------------


def test_an_edit_with_a_mask_keeps_what_is_opaque(client: openai.OpenAI, service: Service) -> None:
    answer = client.images.edit(
        image=("picture.png", png()),
        mask=("mask.png", png("RGBA", hole=True)),
        prompt="a cat",
        extra_body=SHORT,
    )
    image = picture(answer.data[0].b64_json)
    record = newest(service)
    assert record["referenceMode"] == "inpaint"
    assert image.width / image.height == pytest.approx(1.5, rel=0.15)
    assert image.convert("RGB").getpixel((image.width - 3, 3)) == (255, 0, 0)
    assert image.convert("RGB").getpixel((3, 3)) != (255, 0, 0)


def test_an_edit_takes_several_pictures(client: openai.OpenAI, service: Service) -> None:
    answer = client.images.edit(
        image=[("a.png", png()), ("b.png", png())],
        prompt="a cat",
        input_fidelity="high",
        n=2,
        extra_body=SHORT,
    )
    assert len(answer.data) == 2
    record = newest(service)
    assert len(record["referenceImages"]) == 2
    assert record["referenceStrength"] == 0.8


def test_an_edit_is_streamed(client: openai.OpenAI) -> None:
    events = client.images.edit(
        image=png(), prompt="a cat", stream=True, partial_images=1, extra_body=SHORT
    )
    assert [event.type for event in events][-1] == "image_edit.completed"


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_a_variation(client: openai.OpenAI, service: Service) -> None:
    answer = client.images.create_variation(image=png(), n=2, size="256x256", extra_body=SHORT)
    assert len({item.b64_json for item in answer.data}) == 2
    assert len(newest(service)["referenceImages"]) == 1


# --- Models, keys, errors -------------------------------------------------------------------------


def test_the_models(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert model.id == "tiny-sdxl"
    assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-image-1")
    assert raised.value.code == "not_found"


def test_a_wrong_key_is_an_authentication_error(service: Service) -> None:
    with (
        openai.OpenAI(base_url=f"{service.url}/v1", api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as raised,
    ):
        client.images.generate(prompt="a cat")
    assert raised.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("fields", "parameter", "code"),
    [
        ({"prompt": " "}, "prompt", "invalid_value"),
        ({"n": 11}, "n", "invalid_value"),
        ({"size": "big"}, "size", "invalid_value"),
        ({"quality": "best"}, "quality", "invalid_value"),
        ({"background": "transparent"}, "background", "invalid_value"),
        ({"output_compression": 50}, "output_compression", "invalid_value"),
        ({"partial_images": 2}, "partial_images", "invalid_value"),
        ({"extra_body": {"fps": 3}}, "fps", "unknown_parameter"),
        ({"extra_body": {"guidance_scale": 21}}, "guidance_scale", "invalid_value"),
        ({"extra_body": {"loras": [{"name": "none"}]}}, "loras", "invalid_value"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    client: openai.OpenAI, fields: dict, parameter: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.generate(**{"prompt": "a cat", **fields})
    error = raised.value
    assert (error.param, error.code, error.type) == (parameter, code, "invalid_request_error")
    assert parameter in error.message


def test_a_mask_without_transparency_is_refused(client: openai.OpenAI, service: Service) -> None:
    before = service.request("GET", "/api/v1/images").json()["pagination"]["total"]
    with pytest.raises(openai.BadRequestError, match="alpha") as raised:
        client.images.edit(image=png(), mask=png(), prompt="a cat")
    assert raised.value.param == "mask"
    with pytest.raises(openai.BadRequestError):
        client.images.edit(image=png(), prompt="a cat", extra_body={"loras": '[{"name": "no"}]'})
    # What was stored for a request that is refused is gone again.
    assert service.request("GET", "/api/v1/images").json()["pagination"]["total"] == before


def test_a_cancelled_generation_is_an_error_that_is_not_tried_again(service: Service) -> None:
    before = len(service.records())
    with (
        openai.OpenAI(base_url=f"{service.url}/v1", api_key=service.key) as client,
        ThreadPoolExecutor(1) as thread,
    ):
        asked = thread.submit(client.images.generate, prompt="a cat", extra_body=LONG)
        service.wait_for(lambda: len(service.records()) > before, "the request to be accepted")
        service.request("POST", f"/api/v1/generations/{newest(service)['id']}/cancel")
        with pytest.raises(openai.InternalServerError, match="Cancelled") as raised:
            asked.result(60)
    assert raised.value.code == "generation_failed"
    assert len(service.records()) == before + 1


# --- Clients that go away, servers that die -------------------------------------------------------


def leave_once_accepted(service: Service, number: int, **fields: object) -> None:
    """Ask for so many pictures, and hang up when they are accepted."""

    async def ask() -> None:
        before = len(service.records())
        async with openai.AsyncOpenAI(
            base_url=f"{service.url}/v1", api_key=service.key, max_retries=0
        ) as client:
            asked = asyncio.create_task(client.images.generate(prompt="a cat", n=number, **fields))
            await wait_until_async(
                lambda: len(service.records()) == before + number, "the pictures to be accepted"
            )
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked

    asyncio.run(ask())


def assert_cancelled(service: Service, number: int) -> None:
    """That the newest of the generations are cancelled."""
    for record in service.records()[:number]:
        assert service.wait_until_ended(record["id"])["errorMessage"] == "Cancelled"


def test_a_client_that_hangs_up_cancels_its_generations(service: Service) -> None:
    leave_once_accepted(service, 3, size="88x88", extra_body=LONG)
    assert_cancelled(service, 3)


def test_a_client_that_leaves_a_stream_cancels_its_generations(
    client: openai.OpenAI, service: Service
) -> None:
    with client.images.generate(
        prompt="a cat", n=2, stream=True, partial_images=1, extra_body=LONG
    ):
        service.wait_until_painting(service.records()[1]["id"])
    assert_cancelled(service, 2)


def test_a_client_that_leaves_while_nothing_is_painted_cancels_its_generations(
    new_service: Callable[..., Service],
) -> None:
    service = new_service()
    service.serve("--no-worker", ready=False)
    leave_once_accepted(service, 2)
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as client:
        client.images.generate(prompt="a cat", stream=True).close()
    service.wait_for(lambda: len(service.records()) == 3, "the streamed generation")
    assert_cancelled(service, 3)


def test_a_server_that_dies_between_accepting_and_answering_finishes_the_jobs(
    new_service: Callable[..., Service],
) -> None:
    service = new_service()
    server, _ = service.serve("--no-worker", ready=False)
    failures: list[Exception] = []

    def ask(**options: object) -> None:
        with openai.OpenAI(
            base_url=f"{service.url}/v1", api_key=service.key, max_retries=0
        ) as client:
            try:
                list(client.images.generate(prompt="a cat", extra_body=SHORT, **options))
            except (openai.APIConnectionError, httpx2.HTTPError) as error:
                failures.append(error)

    threads = [
        threading.Thread(target=ask, kwargs={"n": 2}),
        threading.Thread(target=ask, kwargs={"stream": True}),
    ]
    for thread in threads:
        thread.start()
    service.wait_for(lambda: len(service.records()) == 3, "three generations to be accepted")
    service.stop(server, signal.SIGKILL)
    for thread in threads:
        thread.join(30)
    assert len(failures) == 2
    service.serve()
    for record in service.records():
        assert service.wait_until_ended(record["id"])["status"] == "success"


def test_a_server_that_stops_keeps_the_jobs(new_service: Callable[..., Service]) -> None:
    service = new_service()
    server, _ = service.serve("--no-worker", ready=False)
    with (
        openai.OpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as client,
        ThreadPoolExecutor(1) as thread,
    ):
        asked = thread.submit(client.images.generate, prompt="a cat", extra_body=SHORT)
        service.wait_for(lambda: len(service.records()) == 1, "the request to be accepted")
        service.stop(server)
        with pytest.raises(openai.InternalServerError, match="is finished when it runs again"):
            asked.result(30)
    service.serve()
    [record] = service.records()
    assert service.wait_until_ended(record["id"])["status"] == "success"
