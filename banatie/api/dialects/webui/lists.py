"""What there is to choose from: models, LoRAs, samplers, and the lists that are empty here."""

from __future__ import annotations

from typing import Any

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

import banatie
from banatie.api.dependencies import HttpRequest, app_state_of, in_thread
from banatie.api.responses import json_response
from banatie.models.manifest import Manifest
from banatie.models.samplers import AUTOMATIC, NOISE_SCHEDULES, usable_samplers

UPSCALER = "Lanczos"
HASH_DIGITS = 10


@get("/sd-models", operation_id="webuiModels")
async def sd_models(request: HttpRequest) -> Response[Any]:
    """The painting models that are installed."""
    app = app_state_of(request)
    entries = await in_thread(app.intake.painting_models)
    return json_response([_model(entry.name, entry.manifest) for entry in entries])


@get("/loras", operation_id="webuiLoras")
async def loras(request: HttpRequest) -> Response[Any]:
    """The LoRAs that are installed."""
    names = await in_thread(app_state_of(request).intake.loras)
    return json_response(
        [{"name": name, "alias": name, "path": name, "metadata": {}} for name in names]
    )


@get("/samplers", operation_id="webuiSamplers")
async def samplers(request: HttpRequest) -> Response[Any]:
    """The samplers that the model can use."""
    model = await in_thread(app_state_of(request).intake.painting_model)
    return json_response(
        [
            {"name": each.name, "aliases": list(each.aliases), "options": {}}
            for each in usable_samplers(model)
        ]
    )


@get("/schedulers", operation_id="webuiSchedulers")
async def schedulers(request: HttpRequest) -> Response[Any]:
    """The noise schedules."""
    return json_response(
        [
            {"name": name.lower().replace(" ", "_"), "label": name, "aliases": None}
            | {"default_rho": -1, "need_inner_model": False}
            for name in (AUTOMATIC, *NOISE_SCHEDULES)
        ]
    )


@get("/upscalers", operation_id="webuiUpscalers")
async def upscalers(request: HttpRequest) -> Response[Any]:
    """What `enable_hr` enlarges with."""
    return json_response(
        [
            {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 2}
            for name in ("None", UPSCALER)
        ]
    )


@get("/embeddings", operation_id="webuiEmbeddings")
async def embeddings(request: HttpRequest) -> Response[Any]:
    """No textual inversions."""
    return json_response({"loaded": {}, "skipped": {}})


@get("/scripts", operation_id="webuiScripts")
async def scripts(request: HttpRequest) -> Response[Any]:
    """No scripts."""
    return json_response({"txt2img": [], "img2img": []})


@get("/cmd-flags", operation_id="webuiCmdFlags")
async def cmd_flags(request: HttpRequest) -> Response[Any]:
    """Some of WebUI's command line, as far as it is true here."""
    return json_response({"api": True, "listen": True, "nowebui": True, "version": _version()})


@get("/memory", operation_id="webuiMemory")
async def memory(request: HttpRequest) -> Response[Any]:
    """The memory of the workers and of the first one's device, in bytes."""
    app = app_state_of(request)
    workers = await in_thread(app.workers.present, app.clock())
    used = sum(worker.memory_bytes or 0 for worker in workers)
    cuda: dict[str, Any] = {"error": "unavailable"}
    for worker in workers:
        if worker.device_memory_total:
            total, taken = worker.device_memory_total, worker.device_memory_used or 0
            cuda = {"system": {"free": total - taken, "used": taken, "total": total}}
            break
    return json_response({"ram": {"used": used}, "cuda": cuda})


def _empty(path: str) -> HTTPRouteHandler:
    @get(f"/{path}", operation_id=f"webui{path.title().replace('-', '')}")
    async def empty(request: HttpRequest) -> Response[Any]:
        """There are none here."""
        return json_response([])

    return empty


HANDLERS: list[HTTPRouteHandler] = [
    sd_models,
    loras,
    samplers,
    schedulers,
    upscalers,
    embeddings,
    scripts,
    cmd_flags,
    memory,
    *map(
        _empty,
        (
            *("sd-vae", "sd-modules", "latent-upscale-modes", "hypernetworks"),
            *("face-restorers", "realesrgan-models", "prompt-styles", "extensions"),
        ),
    ),
]


def _version() -> str:
    return f"Banatie {banatie.__version__}"


def _model(name: str, manifest: Manifest | None) -> dict[str, Any]:
    digest = manifest.original_sha256 if manifest else ""
    return {
        "title": name,
        "model_name": name,
        "hash": digest[:HASH_DIGITS] or None,
        "sha256": digest or None,
        "filename": name,
        "config": None,
    }
