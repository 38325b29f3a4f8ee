"""Files from elsewhere: import them, serve, paint with and without a LoRA."""

from __future__ import annotations

import io
from collections.abc import Callable

import torch
from PIL import Image

from tests.support.service import Service
from tests.support.single_files import write_checkpoint, write_lora
from tests.support.tiny_models import make_tiny_sdxl


def test_a_checkpoint_and_a_lora_are_imported_served_and_painted_with(
    new_service: Callable[..., Service],
) -> None:
    service = new_service()
    pipeline = make_tiny_sdxl(service.folder / "pipeline", second_width=24)
    checkpoint = write_checkpoint(pipeline, service.folder / "Nice Model.safetensors")
    done = service.run("models", "import", str(checkpoint), "--configs", str(pipeline))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(service.folder / "models" / "Nice-Model")
    assert "Nice-Model is ready; paint with it: painting.model = 'Nice-Model'" in done.stderr

    lora = service.folder / "ink.safetensors"
    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    write_lora(lora, {layer: torch.Size((16, 40))}, rank=4, alpha=2.0)
    refused = service.run("models", "import", str(lora))
    assert refused.returncode == 1
    assert refused.stderr.startswith("banatie: ink.safetensors is a LoRA for a model that reads")
    assert refused.stderr.count("\n") == 1
    done = service.run("models", "import", str(lora), "--configs", str(pipeline))
    assert done.returncode == 0, done.stderr

    del service.environment["BANATIE_PAINTING__MODEL"]
    used = service.run("models", "use", "Nice-Model")
    assert used.returncode == 0, used.stderr
    serving, _ = service.serve()
    plain = service.paint("a fox", seed=7)
    inked = service.paint("a fox", seed=7, loras=[{"name": "ink", "weight": 2}])
    again = service.paint("a fox", seed=7)
    assert (plain["model"], plain["loras"]) == ("Nice-Model", [])
    assert inked["loras"] == [{"name": "ink", "weight": 2.0}]
    assert service.picture(plain) == service.picture(again)
    with Image.open(io.BytesIO(service.picture(inked))) as picture:
        assert picture.text["parameters"].startswith("a fox <lora:ink:2>\n")
        with Image.open(io.BytesIO(service.picture(plain))) as other:
            assert picture.tobytes() != other.tobytes()
    unknown = {"prompt": "a fox", "loras": [{"name": "inc"}]}
    response = service.request("POST", "/api/v1/generations", json=unknown)
    assert response.status_code == 400
    assert "installed are: ink" in response.json()["error"]["message"]

    output = service.folder / "fox.png"
    arguments = ["generate", "a fox", "--no-enhance", "--seed", "7", "--steps", "2"]
    done = service.run(*arguments, "--lora", "ink:2", "-o", str(output))
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == service.picture(inked)

    service.stop(serving)
    refused = service.run("models", "remove", "Nice-Model")
    assert refused.returncode == 1
    assert "in use" in refused.stderr
    serving, _ = service.serve()
    assert service.picture(service.paint("a fox", seed=7)) == service.picture(plain)
    service.stop(serving)
    for name, force in (("ink", ()), ("Nice-Model", ("--force",))):
        done = service.run("models", "remove", name, *force)
        assert done.returncode == 0, done.stderr
    left = [path for path in (service.folder / "models").iterdir() if path.suffix != ".lock"]
    assert left == []
