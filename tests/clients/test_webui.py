"""Clients of Stable Diffusion WebUI: the real `webuiapi`, and others' requests, unchanged."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import webuiapi
from PIL import Image

from tests.support.service import Service, TinyModels

REQUESTS = Path(__file__).parent / "requests"
API = "/sdapi/v1"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models = TinyModels.make(tmp_path_factory.mktemp("models"))
    open_door = {"dialects__webui_without_key": "127.0.0.1"}
    running = Service(tmp_path_factory.mktemp("service"), models, **open_door)
    try:
        running.serve()
        yield running
    finally:
        running.close()


def recorded(name: str) -> dict:
    return json.loads((REQUESTS / f"{name}.json").read_text("utf-8"))


def sizes(answer: dict) -> list[tuple[int, int]]:
    return [Image.open(io.BytesIO(base64.b64decode(each))).size for each in answer["images"]]


def post(service: Service, path: str, body: object, **headers: str) -> dict:
    response = service.request("POST", f"{API}/{path}", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


def get(service: Service, path: str) -> object:
    response = service.request("GET", f"{API}/{path}")
    assert response.status_code == 200, response.text
    return response.json()


def test_webuiapi_paints_from_text_and_from_pictures(service: Service) -> None:
    client = webuiapi.WebUIApi("127.0.0.1", service.port, username="anyone", password=service.key)
    painted = client.txt2img(prompt="a (red:1.3) fox", seed=7, steps=2, width=64, height=64)
    assert painted.image.size == (64, 64)
    assert painted.info["seed"] == 7
    assert painted.info["sampler_name"] == "Euler a"
    assert painted.info["ignored"] == []
    assert painted.parameters["prompt"] == "a (red:1.3) fox"
    again = client.txt2img(prompt="a (red:1.3) fox", seed=7, steps=2, width=64, height=64)
    assert again.image.tobytes() == painted.image.tobytes()

    mask = Image.new("L", (64, 64), 255)
    from_picture = client.img2img(
        images=[painted.image], mask_image=mask, prompt="a fox", steps=4, width=64, height=64
    )
    assert from_picture.image.size == (64, 64)


def test_webuiapi_reads_what_there_is(service: Service) -> None:
    client = webuiapi.WebUIApi("127.0.0.1", service.port, username="anyone", password=service.key)
    assert "Euler a" in [each["name"] for each in client.get_samplers()]
    assert "karras" in [each["name"] for each in client.get_schedulers()]
    assert client.get_scripts() == {"txt2img": [], "img2img": []}
    assert client.get_loras() == []
    assert client.get_sd_vae() == []
    assert client.get_embeddings()["loaded"] == {}
    assert client.get_options()["sd_model_checkpoint"] == "tiny-sdxl"
    assert client.get_progress()["progress"] == 0
    assert client.get_memory()["ram"]
    client.interrupt()
    client.skip()


def test_sillytavern(service: Service) -> None:
    for path in ("options", "sd-models", "samplers", "schedulers", "upscalers", "sd-vae"):
        assert get(service, path) is not None
    assert get(service, "latent-upscale-modes") == []
    model = get(service, "options")["sd_model_checkpoint"]
    post(service, "options", {"sd_model_checkpoint": model})
    progress = get(service, "progress")
    assert (progress["progress"], progress["state"]["job_count"]) == (0, 0)
    answer = post(service, "txt2img", recorded("sillytavern-txt2img"))
    assert sizes(answer) == [(64, 64)]
    info = json.loads(answer["info"])
    assert info["sampler_name"] == "DPM++ 2M"
    assert "Schedule type: Karras" in info["infotexts"][0]
    assert info["ignored"] == ["url", "auth"]
    assert "not-repeated" not in json.dumps(answer)
    assert "not-repeated" not in service.log.read_text("utf-8")


def test_open_webui(service: Service) -> None:
    basic = base64.b64encode(f"banatie:{service.key}".encode()).decode()
    options = get(service, "options")
    assert options["sd_model_checkpoint"]
    post(service, "options", options, Authorization=f"Basic {basic}")
    answer = post(service, "txt2img", recorded("open-webui-txt2img"))
    assert len(answer["images"]) == 2
    assert json.loads(answer["info"])["all_seeds"][1]


def test_librechat_which_sends_no_key(service: Service) -> None:
    client = service._client
    response = client.post(f"{API}/txt2img", json=recorded("librechat-txt2img"))
    assert response.status_code == 200, response.text
    info = json.loads(response.json()["info"])
    assert f"Seed: {info['seed']}" in info["infotexts"][0]
    assert len(sizes(response.json())) == 1
    assert client.get("/api/v1/generations").status_code == 401
