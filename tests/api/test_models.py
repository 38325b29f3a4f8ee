"""Models over HTTP: listed, switched, downloaded and imported by real commands; the machine."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from banatie.config import arguments_of, load_config
from banatie.models.bundled import model_folder
from banatie.store.model_choices import ModelChoices
from banatie.store.workers import WorkerState
from tests.support.api_server import assert_failure, serving
from tests.support.loopback_hub import LoopbackHub, Repository
from tests.support.loopback_hub import serving as serving_hub
from tests.support.polling import wait_until_async

pytestmark = pytest.mark.anyio

MODELS = "/api/admin/models"
INSTALLATIONS = f"{MODELS}/installations"
BUNDLED = "banatie-small"
UNET = "unet/diffusion_pytorch_model.safetensors"
PATIENCE = 60.0
STALL_AFTER = 100_000
"""Bytes of a file: more than what a download holds back before it writes."""
"""A command takes seconds to import what it needs, and more beside other tests."""


@pytest.fixture
def hub(monkeypatch):
    repository = Repository.from_folder(model_folder(BUNDLED, Path()))
    with serving_hub(LoopbackHub({"acme/tiny": repository})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        # The real hub must not hear of requests to a mirror.
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        yield hub


@pytest.fixture
def master(server):
    """A client with a master key."""
    return server.client(type="master")


def settings(folder: Path) -> dict[str, object]:
    """A models folder of its own, and no limit on polling."""
    return {"storage__models_dir": str(folder / "models"), "limits__requests_per_hour": 0}


async def ended(master, installation_id: str) -> dict:
    """The installation, once it has ended."""

    async def look() -> dict | None:
        found = (await master.get(f"{INSTALLATIONS}/{installation_id}")).json()["data"]
        return found if found["state"] not in ("waiting", "running") else None

    return await wait_until_async(look, "the installation to end", PATIENCE)


async def listed(master) -> dict[str, dict]:
    response = await master.get(MODELS)
    assert response.status_code == 200, response.text
    return {model["name"]: model for model in response.json()["data"]["models"]}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", MODELS),
        ("PUT", f"{MODELS}/painting"),
        ("POST", INSTALLATIONS),
        ("GET", "/api/admin/machine"),
        ("GET", "/api/admin/doctor"),
    ],
)
async def test_a_project_key_sees_and_switches_no_model(client, method, path):
    assert_failure(await client.request(method, path), 403, "FORBIDDEN")


async def test_the_settings_pass_to_another_command_as_they_are():
    given = {"painting.devices": "cpu,cpu", "server.metrics": "false", "limits.body_seconds": 2}
    config = load_config(None, {}, given)
    passed = dict(each.removeprefix("--set=").split("=", 1) for each in arguments_of(config))
    assert load_config(None, {}, passed) == config


async def test_models_are_listed_with_what_can_be_done(tmp_path):
    async with serving(tmp_path, **settings(tmp_path)) as server:
        master = server.client(type="master")
        models = await listed(master)
    bundled, base = models[BUNDLED], models["sdxl-base-1.0"]
    assert (bundled["state"], bundled["inUse"], bundled["refusal"]) == ("installed", True, "")
    assert (base["state"], base["canPull"], base["inUse"]) == ("absent", True, False)
    assert "banatie models pull sdxl-base-1.0" in base["refusal"]
    assert bundled["bytes"] > 1_000_000
    assert "enhancement.model" in models["smollm2-135m-instruct"]["refusal"]


async def test_the_painting_model_is_imported_switched_and_kept(tmp_path):
    source = shutil.copytree(model_folder(BUNDLED, tmp_path), tmp_path / "mine")
    async with serving(tmp_path / "data", **settings(tmp_path)) as server:
        master = server.client(type="master")
        asked = await master.post(INSTALLATIONS, json={"path": str(source), "name": "mine"})
        assert asked.status_code == 201, asked.text
        done = await ended(master, asked.json()["data"]["id"])
        assert done["state"] == "done", done
        assert (await listed(master))["mine"]["refusal"] == ""
        switched = await master.put(f"{MODELS}/painting", json={"name": "mine"})
        expected = {"name": "mine", "configured": BUNDLED, "isChosen": True}
        assert switched.json() == {"success": True, "data": expected}
        assert (await listed(master))["mine"]["inUse"] is True
        assert ModelChoices(server.worker.database).current(BUNDLED) == "mine"
    async with serving(tmp_path / "data", **settings(tmp_path)) as server:
        master = server.client(type="master")
        assert (await master.get(MODELS)).json()["data"]["painting"]["name"] == "mine"
        back = await master.put(f"{MODELS}/painting", json={"name": BUNDLED})
        assert back.json()["data"]["isChosen"] is False


@pytest.mark.parametrize("name", ["sdxl-base-1.0", "smollm2-135m-instruct", "none", "/etc", ""])
async def test_what_cannot_paint_is_refused(master, name):
    response = await master.put(f"{MODELS}/painting", json={"name": name})
    assert_failure(response, 400, "VALIDATION_ERROR", "name")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "pull"),
        ({"pull": "sdxl-base-1.0", "path": "/tmp"}, "pull"),
        ({"pull": BUNDLED}, "pull"),
        ({"pull": "unheard-of"}, "pull"),
        ({"pull": "--help/x"}, "pull"),
        ({"pull": "a/b/c"}, "pull"),
        ({"pull": "sdxl-base-1.0", "name": "x"}, "name"),
        ({"path": "relative"}, "path"),
        ({"path": "/nowhere/at/all"}, "path"),
        ({"path": "/\0"}, "path"),
        ({"path": "/tmp", "name": "../x"}, "name"),
        ({"pull": "sdxl-base-1.0", "force": True}, "force"),
    ],
    ids=str,
)
async def test_what_cannot_be_installed_is_named(master, body, field):
    response = await master.post(INSTALLATIONS, json=body)
    assert_failure(response, 400, "VALIDATION_ERROR", field)


async def test_a_file_that_is_no_model_fails_with_the_reason(tmp_path):
    (tmp_path / "notes.safetensors").write_bytes(b"not a model")
    async with serving(tmp_path / "data", **settings(tmp_path)) as server:
        master = server.client(type="master")
        body = {"path": str(tmp_path / "notes.safetensors")}
        asked = (await master.post(INSTALLATIONS, json=body)).json()["data"]
        failed = await ended(master, asked["id"])
        assert failed["state"] == "failed"
        assert "notes.safetensors" in failed["message"]
        assert not failed["message"].startswith("banatie:")
        # It can be tried again.
        assert (await master.post(INSTALLATIONS, json=body)).status_code == 201


async def test_a_download_reports_progress_is_cancelled_and_goes_on(tmp_path, hub):
    hub.stall_after = [STALL_AFTER]
    async with serving(tmp_path / "data", **settings(tmp_path)) as server:
        master = server.client(type="master")
        asked = (await master.post(INSTALLATIONS, json={"pull": "acme/tiny"})).json()["data"]
        twice = await master.post(INSTALLATIONS, json={"pull": "acme/tiny"})
        assert_failure(twice, 400, "VALIDATION_ERROR", "pull")

        async def is_loading() -> bool:
            row = (await master.get(f"{INSTALLATIONS}/{asked['id']}")).json()["data"]
            parts = (tmp_path / "models" / ".tiny.installing" / "parts").glob("*")
            is_stalled = False
            # A finished part is moved away meanwhile.
            with contextlib.suppress(FileNotFoundError):
                is_stalled = any(part.stat().st_size > STALL_AFTER // 2 for part in parts)
            return is_stalled and row["bytesTotal"] > row["bytesDone"]

        await wait_until_async(is_loading, "progress", PATIENCE)
        cancelled = await master.post(f"{INSTALLATIONS}/{asked['id']}/cancel")
        assert cancelled.json()["data"]["state"] == "cancelled"
        hub.stall_after = []
        again = (await master.post(INSTALLATIONS, json={"pull": "acme/tiny"})).json()["data"]
        done = await ended(master, again["id"])
        assert (done["state"], done["bytesDone"]) == ("done", done["bytesTotal"]), done
        assert (await listed(master))["tiny"]["state"] == "installed"
        states = [row["state"] for row in (await master.get(INSTALLATIONS)).json()["data"]]
        assert states == ["done", "cancelled"]
        gone = await master.get(f"{INSTALLATIONS}/{'0' * 8}-0000-0000-0000-{'0' * 12}")
        assert_failure(gone, 404, "NOT_FOUND")
    assert any(request.range for request in hub.requests)


async def test_a_download_goes_on_after_the_server_was_stopped(tmp_path, hub):
    hub.stall_after = [STALL_AFTER]
    async with serving(tmp_path / "data", **settings(tmp_path)) as server:
        master = server.client(type="master")
        asked = (await master.post(INSTALLATIONS, json={"pull": "acme/tiny"})).json()["data"]

        async def is_loading() -> bool:
            row = (await master.get(f"{INSTALLATIONS}/{asked['id']}")).json()["data"]
            return row["bytesTotal"] > 0

        await wait_until_async(is_loading, "progress", PATIENCE)
    hub.stall_after = []
    async with serving(tmp_path / "data", **settings(tmp_path)) as server:
        assert (await ended(server.client(type="master"), asked["id"]))["state"] == "done"


async def test_the_machine_says_what_runs_and_waits(tmp_path):
    async with serving(tmp_path) as server:
        client, master = server.client(), server.client(type="master")
        worker = WorkerState(
            "w", 1, "ready", device="cpu", painting_model=BUNDLED, plan="all of it: it fits"
        )
        server.services.workers.report(worker, server.clock())
        await client.painted(server.worker)
        running = await client.create(autoEnhance=False, prompt="a red fox" + "!" * 300)
        server.worker.begin(running["id"], 8)
        server.worker.step(running["id"], 3)
        waiting = await client.create(autoEnhance=False)
        told = (await master.get("/api/admin/machine")).json()["data"]
    assert told["state"] == "ready"
    assert told["workers"][0]["plan"] == "all of it: it fits"
    assert told["queue"]["painting"] == {"waiting": 1, "running": 1}
    first, second = told["generations"]
    assert (first["id"], first["isRunning"], first["step"], first["steps"]) == (
        running["id"],
        True,
        3,
        8,
    )
    assert (second["id"], second["isRunning"], len(first["prompt"])) == (waiting["id"], False, 200)
    assert told["disk"]["pictureCount"] == 1
    assert told["disk"]["pictures"] > 0
    assert told["disk"]["free"] <= told["disk"]["total"]


async def test_the_doctor_examines_in_a_process_of_its_own(tmp_path):
    async with serving(tmp_path) as server:
        master = server.client(type="master")
        response = await master.get("/api/admin/doctor", timeout=PATIENCE)
    told = response.json()["data"]
    checks = {check["check"]: check for check in told["checks"]}
    assert checks["database"]["state"] == "ok"
    assert checks["painting model"]["found"].startswith(BUNDLED)
    assert told["ok"] == all(check["state"] != "FAIL" for check in checks.values())
