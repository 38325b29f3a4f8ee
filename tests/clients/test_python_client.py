"""`banatie.client` against a running server."""

from __future__ import annotations

import asyncio
import io
import threading

import pytest
from PIL import Image

from banatie.client import AsyncClient, Client
from banatie.errors import GenerationFailed, RequestFailed, ServerUnreachable
from tests.support.service import Service, free_port


def size_of(picture: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(picture)) as image:
        return image.size


def test_readme_s_lines_make_a_picture(service: Service):
    with Client(service.url, service.key) as banatie:
        generation = banatie.generate("a red fox", aspect_ratio="16:9", steps=2)
        picture = banatie.download(generation)
    assert generation.status == "success"
    assert generation.output_image
    assert size_of(picture) == (generation.output_image.width, generation.output_image.height)
    assert picture == service.picture(service.get(generation.id))


def test_parameters_arrive_under_the_names_of_the_api(service: Service):
    with Client(service.url, service.key) as banatie:
        generation = banatie.create(
            "a fox",
            auto_enhance=False,
            template="comic",
            negative_prompt="snow",
            guidance_scale=2.5,
            meta={"a": [1]},
            seed=7,
            flow_id=None,
            output_format="jpeg",
            quality=70,
        )
        assert generation.template == "comic"
        assert generation.negative_prompt == "snow"
        assert generation.guidance_scale == 2.5
        assert generation.meta == {"a": [1]}
        assert generation.seed == 7
        assert generation.flow_id is None
        assert generation.output_format == "jpeg"
        assert generation.quality == 70
        banatie.cancel(generation.id)
        with pytest.raises(GenerationFailed, match="Cancelled"):
            banatie.wait(generation.id)
        banatie.delete(generation.id)
        with pytest.raises(RequestFailed) as refused:
            banatie.get(generation.id)
    assert (refused.value.status, refused.value.code) == (404, "GENERATION_NOT_FOUND")


def test_one_idempotency_key_makes_one_generation(service: Service):
    with Client(service.url, service.key) as banatie:
        first, second = (
            banatie.create("a fox", auto_enhance=False, idempotency_key="once") for _ in range(2)
        )
        assert first.id == second.id
        banatie.cancel(first.id)


def test_a_picture_is_uploaded_and_painted_from(service: Service):
    with Client(service.url, service.key) as banatie:
        start = banatie.generate("a fox", auto_enhance=False, steps=2)
        uploaded = banatie.upload(banatie.download(start), alias="@start")
        assert banatie.image("@start") == uploaded
        edited = banatie.generate(
            "a wolf", auto_enhance=False, steps=2, reference_images=["@start"]
        )
        assert [each.image_id for each in edited.referenced_images] == [uploaded.id]
        assert uploaded in banatie.images(source="uploaded").data
        assert banatie.list(limit=1, status="success").data == [edited]


def test_the_asynchronous_client_does_the_same(service: Service):
    async def run() -> None:
        async with AsyncClient(service.url, service.key) as banatie:
            generations = await asyncio.gather(
                *(banatie.generate("a fox", auto_enhance=False, steps=2) for _ in range(2))
            )
            pictures = [await banatie.download(each) for each in generations]
            assert [size_of(each) for each in pictures] == [(128, 128)] * 2
            image = await banatie.upload(pictures[0])
            assert await banatie.image(image.id) == image
            assert image in (await banatie.images()).data
            waiting = await banatie.create("a fox", auto_enhance=False, steps=100)
            await banatie.cancel(waiting.id)
            with pytest.raises(GenerationFailed, match="Cancelled"):
                await banatie.wait(waiting.id)
            assert waiting.id in [each.id for each in (await banatie.list()).data]
            await banatie.delete(waiting.id)
            with pytest.raises(RequestFailed, match="No generation"):
                await banatie.get(waiting.id)

    asyncio.run(run())


def test_a_wrong_key_and_a_wrong_parameter_say_what_is_wrong(service: Service):
    with Client(service.url, "bnt_wrong") as stranger, pytest.raises(RequestFailed) as refused:
        stranger.list()
    assert (refused.value.status, refused.value.code) == (401, "UNAUTHORIZED")
    with Client(service.url, service.key) as banatie:
        with pytest.raises(RequestFailed, match="steps") as refused:
            banatie.create("a fox", steps=0)
        assert refused.value.code == "VALIDATION_ERROR"
        # What is no id leads to no other route.
        with pytest.raises(RequestFailed) as refused:
            banatie.get("../images")
    assert refused.value.status == 404


def test_a_server_that_is_not_there_is_named():
    with (
        Client(f"http://127.0.0.1:{free_port()}", "bnt_x") as banatie,
        pytest.raises(ServerUnreachable, match="banatie serve"),
    ):
        banatie.list()


def test_a_server_that_restarts_is_asked_again(new_service):
    service: Service = new_service()
    process, _ = service.serve(ready=False)
    with Client(service.url, service.key) as banatie:
        assert banatie.list().data == []
        service.stop(process)
        starting = threading.Thread(target=service.serve, kwargs={"ready": False})
        # The connection is refused until the server listens again.
        starting.start()
        try:
            created = service.wait_for(lambda: _created(banatie), "an answer", 60)
        finally:
            starting.join()
        assert banatie.get(created.id).prompt == "a fox"


def _created(banatie: Client):
    try:
        return banatie.create("a fox", auto_enhance=False, idempotency_key="over a restart")
    except ServerUnreachable:
        return None
