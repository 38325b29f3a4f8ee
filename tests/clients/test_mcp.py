"""MCP with the package's own client: both transports, the current protocol and the older one."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager

import httpx2
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ImageContent, TextContent
from PIL import Image

from tests.support.service import Service

TOOLS = {"generate_image", "edit_image", "get_generation", "list_images", "upload_reference"}
QUICK = {"enhance": False, "steps": 2}


@asynccontextmanager
async def over_http(service: Service, mode: str, header: str = "bearer"):
    headers = {"Authorization": f"Bearer {service.key}"}
    if header == "x-api-key":
        headers = {"X-API-Key": service.key}
    async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        transport = streamable_http_client(f"{service.url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


@asynccontextmanager
async def over_stdio(service: Service, mode: str):
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "banatie", "mcp", "--url", service.url],
        env={**service.environment, "BANATIE_API_KEY": service.key},
        cwd=service.folder,
    )
    with (service.folder / "mcp-log.txt").open("a") as log:
        async with Client(stdio_client(parameters, errlog=log), mode=mode) as client:
            yield client


CONNECTIONS = {"http": over_http, "stdio": over_stdio}


@pytest.fixture(params=["http-auto", "http-legacy", "stdio-auto", "stdio-legacy"])
def connect(request: pytest.FixtureRequest, service: Service):
    """Opens a client: over each transport, in the current and the older protocol."""
    transport, mode = request.param.split("-")
    return lambda: CONNECTIONS[transport](service, mode)


def noise(width: int, height: int) -> bytes:
    """A PNG that cannot be compressed."""
    image = Image.frombytes("RGB", (width, height), random.Random(1).randbytes(3 * width * height))
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def run(work: Callable[[], Coroutine]) -> None:
    asyncio.run(asyncio.wait_for(work(), 240))


def facts(result: CallToolResult) -> dict:
    assert not result.is_error, result.content
    text = result.content[-1]
    assert isinstance(text, TextContent)
    return json.loads(text.text)


def picture(result: CallToolResult) -> tuple[bytes, str]:
    image = result.content[0]
    assert isinstance(image, ImageContent)
    return base64.b64decode(image.data), image.mime_type


def problem(result: CallToolResult) -> str:
    assert result.is_error
    return result.content[0].text


def test_a_conversation_makes_finds_and_edits_pictures(connect, service: Service):
    async def work() -> None:
        async with connect() as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(tools) == TOOLS
            assert tools["list_images"].annotations.read_only_hint
            assert not tools["generate_image"].annotations.destructive_hint
            assert tools["generate_image"].input_schema["required"] == ["prompt"]

            reported = []

            async def on_progress(progress: float, total: float | None, message: str | None):
                reported.append((progress, total, message))

            made = await client.call_tool(
                "generate_image",
                {"prompt": "a red fox", "seed": 7, "aspect_ratio": "16:9", "steps": 2},
                progress_callback=on_progress,
            )
            record = service.get(facts(made)["generation_id"])
            assert facts(made) == {
                "generation_id": record["id"],
                "status": "success",
                "prompt": record["prompt"],
                "original_prompt": "a red fox",
                "seed": 7,
                "warnings": record["warnings"],
                "image_id": record["outputImageId"],
                "url": record["outputImage"]["storageUrl"],
                "size": "{width}x{height}".format(**record["outputImage"]),
            }
            assert record["aspectRatio"] == "16:9"
            assert picture(made) == (service.picture(record), "image/png")
            assert reported
            assert {total for _, total, _ in reported} == {1.0}
            assert [each for each, _, _ in reported] == sorted({each for each, _, _ in reported})

            edited = await client.call_tool(
                "edit_image",
                {"image": facts(made)["image_id"], "prompt": "a wolf", "strength": 0.5},
            )
            record = service.get(facts(edited)["generation_id"])
            assert record["referencedImages"][0]["imageId"] == facts(made)["image_id"]
            assert record["referenceStrength"] == 0.5
            again = await client.call_tool(
                "get_generation", {"generation_id": facts(edited)["generation_id"]}
            )
            assert (facts(again), picture(again)) == (facts(edited), picture(edited))

            listed = facts(await client.call_tool("list_images", {"limit": 2}))
            assert [each["image_id"] for each in listed["images"]] == [
                facts(edited)["image_id"],
                facts(made)["image_id"],
            ]

    run(work)


def test_an_upload_can_be_painted_from(service: Service):
    async def work() -> None:
        async with over_http(service, "auto", "x-api-key") as client:
            # As large as an upload may be, and so larger than most servers' bodies.
            content = noise(1300, 1200)
            assert 4_000_000 < len(content) < 5_000_000
            data = base64.b64encode(content).decode()
            stored = facts(
                await client.call_tool("upload_reference", {"data": data, "alias": "@mcp"})
            )
            assert (stored["alias"], stored["size"]) == ("@mcp", "1300x1200")
            made = await client.call_tool(
                "generate_image", {"prompt": "a fox", "reference_images": ["@mcp"], **QUICK}
            )
            record = service.get(facts(made)["generation_id"])
            assert record["referencedImages"] == [{"imageId": stored["image_id"], "alias": "@mcp"}]
            listed = facts(await client.call_tool("list_images", {"source": "uploaded"}))
            assert stored in listed["images"]

    run(work)


def test_one_request_id_makes_one_picture(service: Service):
    async def work() -> None:
        async with over_http(service, "auto") as client:
            asked = {"prompt": "a fox", "request_id": "once", **QUICK}
            first, second = [facts(await client.call_tool("generate_image", asked)) for _ in "12"]
            assert first == second
            other = await client.call_tool("generate_image", asked | {"prompt": "a wolf"})
            assert "another body" in problem(other)

    run(work)


def test_what_is_wrong_is_said_to_the_model(service: Service):
    async def work() -> None:
        async with over_http(service, "auto") as client:
            for tool, arguments, said in (
                ("generate_image", {"prompt": " "}, "blank"),
                ("generate_image", {"prompt": "a fox", "steps": 0}, "steps"),
                ("edit_image", {"prompt": "a fox", "image": "@nothing"}, "@nothing"),
                ("get_generation", {"generation_id": "x"}, "No generation"),
                ("upload_reference", {"data": "?"}, "base64"),
                ("upload_reference", {"data": "aGVsbG8="}, "PNG"),
            ):
                assert said in problem(await client.call_tool(tool, arguments)), tool
            failed = service.post("a fox", autoEnhance=False, steps=100)
            service.request("POST", f"/api/v1/generations/{failed['id']}/cancel")
            state = facts(await client.call_tool("get_generation", {"generation_id": failed["id"]}))
            assert (state["status"], state["error"]) == ("failed", "Cancelled")

    run(work)


def test_without_a_key_nothing_is_told(service: Service):
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    for headers in ({"X-API-Key": ""}, {"X-API-Key": "bnt_wrong"}):
        for method in ("POST", "GET", "DELETE"):
            response = service.request(method, "/mcp", json=body, headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "UNAUTHORIZED"
            assert response.headers["X-Request-Id"]
    large = service.request(
        "POST", "/mcp", content=b" " * 9_000_000, headers={"Content-Type": "application/json"}
    )
    assert large.status_code == 413


def test_a_picture_of_a_large_file_becomes_a_smaller_copy():
    from banatie.imaging.chat_copy import fit_into

    content = noise(1300, 1200)
    copy = fit_into(content, 700_000)
    assert (copy.mime_type, copy.width) == ("image/jpeg", 1024)
    assert len(copy.data) <= 700_000
    with Image.open(io.BytesIO(copy.data)) as image:
        assert image.size == (copy.width, copy.height)
    assert fit_into(content, len(content)).data == content


def test_a_killed_server_finishes_what_it_was_asked(new_service):
    service: Service = new_service()

    async def ask(steps: int) -> CallToolResult:
        async with over_http(service, "auto") as client:
            return await client.call_tool(
                "generate_image",
                {"prompt": "a fox", "enhance": False, "steps": steps, "request_id": "r"},
            )

    async def ask_and_be_cut_off(process) -> None:
        asking = asyncio.create_task(ask(30))
        await asyncio.to_thread(service.wait_for, service.records, "the generation")
        await asyncio.to_thread(service.stop, process, signal.SIGKILL)
        await asyncio.wait([asking])
        assert asking.cancelled() or asking.exception() or asking.result().is_error

    process, _ = service.serve()
    run(lambda: ask_and_be_cut_off(process))
    process, _ = service.serve()

    async def again() -> None:
        assert facts(await ask(30))["status"] == "success"
        assert len(service.records()) == 1

    run(again)

    # A server that is asked to stop does not wait for a picture.
    async def stop_meanwhile() -> None:
        async with over_http(service, "auto") as client:
            asking = asyncio.create_task(
                client.call_tool("generate_image", {"prompt": "a", "steps": 100, "enhance": False})
            )
            await asyncio.to_thread(
                service.wait_for, lambda: len(service.records()) == 2, "the second generation"
            )
            assert await asyncio.to_thread(service.stop, process) < 15
            asking.cancel()

    run(stop_meanwhile)


def test_without_a_key_the_command_says_so(service: Service):
    done = service.run("mcp")
    assert done.returncode == 2
    assert "--key" in done.stderr
