"""Stable Diffusion WebUI's API: credentials, what is taken and what is ignored, answers."""

from __future__ import annotations

import asyncio
import base64
import io
import json

import pytest
from PIL import Image

from tests.support.api_server import GENERATIONS, PATIENCE, picture_bytes, serving
from tests.support.polling import wait_until_async

pytestmark = pytest.mark.anyio

API = "/sdapi/v1"
PICTURE = base64.b64encode(picture_bytes()).decode()


def posting(client, path="txt2img", **body):
    return asyncio.create_task(client.post(f"{API}/{path}", json={"prompt": "a red fox", **body}))


async def accepted(server, client, count=1):
    """The project's generations, oldest first, once there are so many."""
    rows = await wait_until_async(
        lambda: rows if len(rows := server.generations_of(client)) >= count else None,
        "the generations",
        PATIENCE,
    )
    return sorted(rows, key=lambda each: each.seed)


async def waited_for(client, count):
    """Once a request waits for so many pictures: that is a moment after they are accepted."""

    async def is_shown():
        return (await client.get(f"{API}/progress")).json()["state"]["job_count"] == count

    await wait_until_async(is_shown, "the request to wait", PATIENCE)


async def painted(server, client, path="txt2img", count=1, **body):
    """The answer to a request whose pictures the worker paints, and the generations."""
    task = posting(client, path, **body)
    rows = await accepted(server, client, count)
    for row in rows:
        server.worker.paint(row.id)
    response = await asyncio.wait_for(task, PATIENCE)
    assert response.status_code == 200, response.text
    return response.json(), rows


def info_of(answer):
    return json.loads(answer["info"])


def assert_refused(response, status, code, text):
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "detail", "body", "errors"}
    assert body["error"] == code
    assert text in body["detail"]


# Credentials


async def test_the_key_is_the_password(server):
    key = server.new_key()
    for auth in (("anyone", key), (key, "")):
        response = await server.visitor().get(f"{API}/options", auth=auth)
        assert response.status_code == 200
    bearer = {"Authorization": f"Bearer {key}"}
    assert (await server.visitor().get(f"{API}/options", headers=bearer)).status_code == 200


@pytest.mark.parametrize("value", ["", "Basic", "Basic !!", "Digest abc", "Basic dXNlcjp3cm9uZw=="])
async def test_without_a_key_there_is_no_entry(server, value):
    response = await server.visitor().get(f"{API}/options", headers={"Authorization": value})
    assert_refused(response, 401, "UNAUTHORIZED", "API key")


@pytest.mark.parametrize(
    ("address", "status"), [("10.1.2.3", 200), ("::1", 200), ("10.2.0.1", 401)]
)
async def test_addresses_can_be_let_in_without_a_key(tmp_path, address, status):
    async with serving(tmp_path, dialects__webui_without_key=["10.1.0.0/16", "::1"]) as server:
        visitor = server.visitor(address)
        response = await visitor.get(f"{API}/options", headers={"Authorization": ""})
        assert response.status_code == status
        # A page in a browser of that machine, whoever made it, is no such client.
        for name, value in (("Origin", "http://elsewhere.test"), ("Sec-Fetch-Site", "none")):
            page = await visitor.get(f"{API}/options", headers={name: value})
            assert page.status_code == 401
        # The other protocols stay closed.
        assert (await visitor.get(GENERATIONS)).status_code == 401


async def test_without_a_key_the_default_project_is_painted_in(tmp_path):
    async with serving(tmp_path, dialects__webui_without_key=["127.0.0.1"]) as server:
        owner = server.client(project="default")
        answer, _ = await painted(server, owner)
        visitor = server.visitor()
        task = posting(visitor, prompt="a blue fox")
        rows = await accepted(server, owner, 2)
        server.worker.paint(next(row.id for row in rows if row.prompt == "a blue fox"))
        assert (await asyncio.wait_for(task, PATIENCE)).json()["images"]
        assert answer["images"]


async def test_errors_have_the_shape_of_webui(client):
    assert_refused(await client.get(f"{API}/nothing"), 404, "NOT_FOUND", "No route")
    assert_refused(await client.post(f"{API}/txt2img", json=[]), 400, "VALIDATION_ERROR", "body")


# Painting


async def test_pictures_are_answered_as_base64_with_info_as_a_string(server, client):
    answer, [row] = await painted(server, client, seed=5, steps=7, cfg_scale=3.5)
    [image] = answer["images"]
    assert Image.open(io.BytesIO(base64.b64decode(image))).size == (48, 32)
    info = info_of(answer)
    assert info["seed"] == row.seed == 5
    assert info["all_seeds"] == [5]
    assert info["generation_ids"] == [row.id]
    assert len(info["infotexts"]) == 1
    assert info["ignored"] == []
    assert (row.steps, row.guidance_scale, row.auto_enhance) == (7, 3.5, False)
    assert answer["parameters"]["prompt"] == "a red fox"


async def test_n_iter_times_batch_size_pictures_have_consecutive_seeds(server, client):
    answer, rows = await painted(server, client, count=4, n_iter=2, batch_size=2, seed=-1)
    seeds = [row.seed for row in rows]
    assert seeds == list(range(seeds[0], seeds[0] + 4))
    assert info_of(answer)["all_seeds"] == seeds
    assert len(answer["images"]) == 4


async def test_too_many_pictures_are_refused(client):
    response = await client.post(f"{API}/txt2img", json={"prompt": "x", "batch_size": 17})
    assert_refused(response, 400, "VALIDATION_ERROR", "at most 16")


async def test_what_has_no_effect_is_named_and_never_repeated(server, client):
    answer, _ = await painted(
        server,
        client,
        url="http://10.0.0.1",
        auth="user:secret",
        subseed=7,
        subseed_strength=0.0,
        restore_faces=False,
        tiling=True,
        s_noise=1,
        alwayson_scripts={"ADetailer": {"args": []}},
        override_settings={"CLIP_stop_at_last_layers": 2, "sd_vae": "Automatic"},
    )
    assert info_of(answer)["ignored"] == [
        *("url", "auth", "subseed", "tiling", "alwayson_scripts"),
        "override_settings.CLIP_stop_at_last_layers",
    ]
    assert "secret" not in json.dumps(answer)


async def test_a_size_that_the_model_cannot_paint_becomes_the_nearest(server, client):
    answer, [row] = await painted(server, client, width=1024, height=1024)
    assert row.width == row.height
    assert row.width < 1024
    assert f"{row.width}x{row.width} is painted instead of 1024x1024" in str(info_of(answer))


async def test_without_a_size_the_model_has_its_own(server, client):
    _, [row] = await painted(server, client)
    assert row.width is row.height is None


async def test_enable_hr_enlarges(server, client):
    answer, [row] = await painted(
        server, client, width=128, height=64, enable_hr=True, hr_scale=3, hr_upscaler="Latent"
    )
    assert row.upscale == 2
    assert "hr_scale: 2 instead of 3" in info_of(answer)["warnings"]


async def test_pictures_can_be_left_out_of_the_answer(server, client):
    answer, _ = await painted(server, client, send_images=False)
    assert answer["images"] == []


async def test_a_failed_picture_is_an_error(server, client):
    task = posting(client)
    [row] = await accepted(server, client)
    server.worker.fail(row.id, "the model broke")
    response = await asyncio.wait_for(task, PATIENCE)
    assert_refused(response, 500, "GENERATION_FAILED", "the model broke")


# Painting from pictures


async def test_img2img_paints_from_a_stored_copy(server, client):
    answer, [row] = await painted(
        server,
        client,
        "img2img",
        init_images=[f"data:image/png;base64,{PICTURE}"],
        denoising_strength=0.25,
        width=128,
        height=96,
    )
    assert len(row.reference_images) == 1
    assert row.reference_strength == 0.75
    assert row.mask_image_id is None
    assert answer["parameters"]["init_images"] is None


@pytest.mark.parametrize("inverted", [0, 1])
async def test_img2img_takes_a_mask(server, client, inverted):
    mask = io.BytesIO()
    Image.new("L", (48, 32), 255).save(mask, "png")
    _, [row] = await painted(
        server,
        client,
        "img2img",
        init_images=[PICTURE],
        mask=base64.b64encode(mask.getvalue()).decode(),
        inpainting_mask_invert=inverted,
    )
    stored = server.services.library.images.get(client.project_id, row.mask_image_id)
    with Image.open(server.services.files.path(stored.storage_key)) as picture:
        assert picture.convert("L").getextrema() == ((0, 0) if inverted else (255, 255))


@pytest.mark.parametrize(
    "body", [{}, {"init_images": []}, {"init_images": ["?"]}, {"init_images": ["aGVsbG8="]}]
)
async def test_img2img_without_a_picture_is_refused(client, body):
    response = await client.post(f"{API}/img2img", json={"prompt": "x", **body})
    assert_refused(response, 400, "VALIDATION_ERROR", "init_images")


# Following and stopping


async def test_progress_shows_what_requests_wait_for(server, client):
    idle = (await client.get(f"{API}/progress")).json()
    assert (idle["progress"], idle["state"]["job_count"]) == (0, 0)
    # Made otherwise, and no business of this protocol's clients.
    await client.create(autoEnhance=False, prompt="of another protocol")
    task = posting(client)
    rows = await accepted(server, client, 2)
    await waited_for(client, 1)
    row = next(each for each in rows if each.prompt == "a red fox")
    server.worker.begin(row.id, steps=4)
    assert server.worker.step(row.id, 1, b"jpeg")
    shown = (await client.get(f"{API}/progress")).json()
    assert shown["progress"] == 0.25
    assert (shown["state"]["sampling_step"], shown["state"]["sampling_steps"]) == (1, 4)
    assert (shown["state"]["job_count"], shown["state"]["job_no"]) == (1, 0)
    assert base64.b64decode(shown["current_image"]) == b"jpeg"
    without = (await client.get(f"{API}/progress?skip_current_image=true")).json()
    assert without["current_image"] is None
    server.worker.succeed(row.id)
    await asyncio.wait_for(task, PATIENCE)
    assert (await client.get(f"{API}/progress")).json() == idle


async def test_progress_is_not_counted(server):
    client = server.client(requests_per_hour=1)
    for _ in range(3):
        assert (await client.get(f"{API}/progress")).status_code == 200


async def test_interrupt_stops_what_requests_wait_for_and_nothing_else(server, client):
    other = await client.create(autoEnhance=False, prompt="of another protocol")
    task = posting(client, batch_size=2)
    await accepted(server, client, 3)
    await waited_for(client, 2)
    assert (await client.post(f"{API}/interrupt")).status_code == 200
    response = await asyncio.wait_for(task, PATIENCE)
    assert response.status_code == 200
    assert response.json()["images"] == []
    assert (await client.record(other["id"]))["status"] == "pending"


async def test_skip_goes_on_with_the_next(server, client):
    task = posting(client, batch_size=2, seed=1)
    first, second = await accepted(server, client, 2)
    await waited_for(client, 2)
    server.worker.begin(first.id)
    assert (await client.post(f"{API}/skip")).status_code == 200
    server.worker.paint(second.id)
    answer = (await asyncio.wait_for(task, PATIENCE)).json()
    assert info_of(answer)["all_seeds"] == [2]


# Settings and lists


async def test_the_options_name_the_model_and_can_be_sent_back_whole(client):
    options = (await client.get(f"{API}/options")).json()
    assert options["sd_model_checkpoint"] == "banatie-small"
    models = (await client.get(f"{API}/sd-models")).json()
    assert options["sd_model_checkpoint"] in [model["title"] for model in models]
    done = await client.post(f"{API}/options", json=options)
    assert done.json() == {"sd_model_checkpoint": "banatie-small", "ignored": []}
    done = await client.post(f"{API}/options", json={"sd_vae": "other", "x": 1})
    assert done.json()["ignored"] == ["sd_vae", "x"]


@pytest.mark.parametrize("path", ["options", "txt2img"])
async def test_a_model_that_is_not_there_is_refused(client, path):
    setting = {"sd_model_checkpoint": "nothing"}
    body = setting if path == "options" else {"prompt": "x", "override_settings": setting}
    response = await client.post(f"{API}/{path}", json=body)
    assert_refused(response, 400, "VALIDATION_ERROR", "'nothing' is not installed")


async def test_samplers_and_schedulers_are_those_that_the_model_can_use(client):
    samplers = [each["name"] for each in (await client.get(f"{API}/samplers")).json()]
    assert "DPM++ 2M" in samplers
    # It predicts the picture and not the noise, which this one is made for.
    assert "Euler a" not in samplers
    schedulers = (await client.get(f"{API}/schedulers")).json()
    assert ("sgm_uniform", "SGM Uniform") in [(e["name"], e["label"]) for e in schedulers]


@pytest.mark.parametrize(
    ("name", "scheduler", "recorded", "noted"),
    [
        ("DPM++ 2M Karras", "automatic", ("DPM++ 2M", "Karras"), False),
        ("Euler", "karras", ("Euler", "Karras"), False),
        ("Automatic", "automatic", (None, None), False),
        ("Euler a", "automatic", (None, None), True),
        ("DPM++ 2M", "beta", ("DPM++ 2M", None), True),
        ("Restart", "", (None, None), True),
    ],
)
async def test_a_sampler_that_cannot_be_used_is_left_to_the_model(
    server, client, name, scheduler, recorded, noted
):
    answer, [row] = await painted(server, client, sampler_name=name, scheduler=scheduler)
    assert (row.sampler, row.scheduler, row.prompt_syntax) == (*recorded, "webui")
    assert bool(info_of(answer)["warnings"]) is noted


async def test_what_there_is_to_choose_from(client):
    scripts = (await client.get(f"{API}/scripts")).json()
    assert scripts == {"txt2img": [], "img2img": []}
    assert (await client.get(f"{API}/loras")).json() == []
    upscalers = (await client.get(f"{API}/upscalers")).json()
    assert [each["name"] for each in upscalers] == ["None", "Lanczos"]
    empty = ("sd-vae", "sd-modules", "latent-upscale-modes", "hypernetworks", "face-restorers")
    for path in (*empty, "realesrgan-models", "prompt-styles", "extensions"):
        assert (await client.get(f"{API}/{path}")).json() == []
    assert (await client.get(f"{API}/embeddings")).json()["loaded"] == {}
    assert (await client.get(f"{API}/cmd-flags")).json()["api"] is True
    assert "ram" in (await client.get(f"{API}/memory")).json()


async def test_png_info_reads_the_parameters_of_a_file(client):
    from banatie.imaging.formats import encode

    for image_format in ("png", "jpeg", "webp"):
        picture = encode(Image.new("RGB", (8, 8)), image_format, None, "a fox\nSteps: 4")
        image = base64.b64encode(picture.data).decode()
        response = await client.post(f"{API}/png-info", json={"image": image})
        assert response.json()["info"] == "a fox\nSteps: 4"
    assert (await client.post(f"{API}/png-info", json={"image": PICTURE})).json()["info"] == ""
    refused = await client.post(f"{API}/png-info", json={"image": "aGVsbG8="})
    assert_refused(refused, 400, "VALIDATION_ERROR", "image")
