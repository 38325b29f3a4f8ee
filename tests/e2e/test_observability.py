"""What a running service reports to its operator: logs, metrics, the doctor."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from tests.support.service import Service

SECRETS = ("zebra", "waterfall", "velvet", "bnt_")
"""Words of the prompts, and the beginning of every key."""


def test_a_request_is_followed_through_both_processes(new_service: Callable[..., Service]) -> None:
    service = new_service(log__format="json", log__level="debug")
    server, _ = service.serve()
    answer = service.request(
        "POST",
        "/api/v1/generations",
        json={"prompt": "a zebra", "negativePrompt": "velvet", "meta": {"a": "velvet"}, "steps": 2},
        headers={"Prefer": "wait=60"},
    )
    assert answer.json()["data"]["status"] == "success"
    request_id, generation_id = answer.headers["X-Request-Id"], answer.json()["data"]["id"]
    prompt = answer.json()["data"]["prompt"]
    cancelled = service.post("a waterfall", autoEnhance=False, steps=100)["id"]
    service.wait_until_painting(cancelled)
    service.request("POST", f"/api/v1/generations/{cancelled}/cancel")
    service.wait_for(lambda: "abandoned" in _messages(service, cancelled), "the worker to let go")
    service.request("GET", "/api/v1/generations?limit=zebra")
    service.request("GET", "/api/v1/generations", headers={"X-API-Key": "bnt_wrong"})
    service.stop(server, signal.SIGTERM)

    # Every line of both processes is JSON and begins with the same fields.
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z", line["time"])
        assert {"level", "logger", "message"} <= set(line)

    own_lines = [line for line in lines if line.get("generation_id") == generation_id]
    assert {line["request_id"] for line in own_lines} == {request_id}
    messages = {
        process: [line["message"] for line in own_lines if line["logger"].startswith(process)]
        for process in ("banatie.intake", "banatie.worker.")
    }
    assert messages == {
        "banatie.intake": ["accepted"],
        "banatie.worker.": ["enhancing", "enhanced", "painting", "finished"],
    }
    assert all(
        line["seconds"] > 0 for line in own_lines if line["message"] in ("enhanced", "finished")
    )
    # Two processes write, so that either line may come first.
    assert set(_messages(service, cancelled)) == {"accepted", "painting", "cancelled", "abandoned"}

    # Even at the level that logs every request, it contains no prompts or keys.
    text = service.log.read_text()
    assert "POST /api/v1/generations 201" in text
    assert not [word for word in (*SECRETS, prompt) if word in text]


def test_logs_are_lines_of_text_by_default(new_service: Callable[..., Service]) -> None:
    service = new_service()
    service.serve()
    record = service.paint("a zebra")
    service.wait_for(lambda: "finished" in service.log.read_text(), "the line")
    text = service.log.read_text()
    [finished] = [line for line in text.splitlines() if "finished" in line]
    assert re.fullmatch(
        r"[\d-]+ [\d:,]+ INFO +banatie\.worker\.\w+: finished "
        rf"generation_id={record['id']} request_id=[0-9a-f]{{24}} seconds=[\d.]+",
        finished,
    )
    assert not [word for word in SECRETS if word in text]


def test_the_figures_of_both_processes_are_told(service: Service) -> None:
    before = _figures(service)
    service.paint("a cat")
    service.post("a dog", prefer="wait=60", steps=1)
    after = _figures(service)
    done = 'banatie_generations_ended_total{reason="",status="success"}'
    assert after[done] == before.get(done, 0) + 2
    for stage, times in {"enhance": 1, "paint_wait": 2, "paint": 2, "encode": 2, "save": 2}.items():
        name = f'banatie_stage_duration_seconds_count{{stage="{stage}"}}'
        assert after[name] == before[name] + times
    seconds = 'banatie_stage_duration_seconds_sum{stage="paint"}'
    assert after[seconds] > before[seconds]
    assert after["banatie_worker_ready"] == 1
    # Unlike the web process, the worker has loaded torch.
    web, worker = (after[f'banatie_memory_bytes{{process="{p}"}}'] for p in ("web", "worker"))
    assert worker > web > 20_000_000


def test_the_doctor_may_come_while_the_service_works(service: Service) -> None:
    job = service.post("a cat", autoEnhance=False, steps=30, prefer="respond-async")
    examined = service.run("doctor", "--json")
    assert examined.returncode == 0, examined.stdout + examined.stderr
    found = {check["check"]: check for check in json.loads(examined.stdout)["checks"]}
    assert {check["state"] for check in found.values()} == {"ok"}
    assert found["port"]["found"] == f"a Banatie server answers on 127.0.0.1:{service.port}"
    [worker] = service.alive("banatie", "worker")
    assert found["worker"]["found"] == f"ready on cpu (process {worker})"
    assert service.wait_until_ended(job["id"])["status"] == "success"
    assert service.health().status_code == 200


def _messages(service: Service, generation_id: str) -> list[str]:
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    return [line["message"] for line in lines if line.get("generation_id") == generation_id]


def _figures(service: Service) -> dict[str, float]:
    response = service.request("GET", "/metrics")
    assert response.status_code == 200
    return {
        sample.name + _labels(sample.labels): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def _labels(labels: dict[str, str]) -> str:
    shown = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    return f"{{{shown}}}" if shown else ""
