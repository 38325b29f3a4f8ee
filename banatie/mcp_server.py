"""The MCP server: tools by which a language model makes and finds pictures (docs/clients-mcp.md).

The tools speak to the HTTP API through `client`, whatever the transport is: `banatie mcp` to a
server at some address, and the endpoint at `/mcp` to the very application that it is part of. So
keys, limits and checks are those of the API. Importing this takes the package `mcp`, an extra.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Literal

import httpx2
import msgspec
from litestar.types import ASGIApp
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import ImageContent, TextContent, ToolAnnotations

import banatie
from banatie.api.image_schemas import ImageView
from banatie.api.mcp_endpoint import MAX_BODY_BYTES, key_text
from banatie.api.schemas import GenerationView
from banatie.client import AsyncClient, GenerationOptions
from banatie.errors import BanatieError
from banatie.imaging.chat_copy import fit_into
from banatie.records import AspectRatio, TemplateName

logger = logging.getLogger(__name__)

MAX_PICTURE_BYTES = 700_000
"""In base64 a third more: clients refuse messages of more than one megabyte."""
WAIT_SECONDS = 1
"""Between two looks at a generation, each of which is a progress notification."""
PAUSE_SECONDS = 0.1
HEARTBEAT = 0.0001
"""The progress of a look at which nothing has changed: progress must increase."""
INSTRUCTIONS = (
    "Makes pictures with models on the user's own machine. generate_image paints from a prompt, "
    "edit_image from an image that is there already. Give a request_id, so that a call which is "
    "sent again does not paint again. A picture in an answer may be a smaller copy; the URL is "
    "that of the picture itself."
)

Connect = Callable[[Context], AbstractAsyncContextManager[AsyncClient]]
"""The client for one call of a tool."""
Content = list[ImageContent | TextContent]


def create_mcp_server(connect: Connect) -> MCPServer:
    """The server with its tools, which reach the API through `connect`."""
    server = MCPServer(
        "banatie",
        title="Banatie",
        version=banatie.__version__,
        instructions=INSTRUCTIONS,
        log_level="WARNING",
    )
    tools = Tools(connect)
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    # A call without a request id makes another picture, and none changes what is there.
    adds = ToolAnnotations(
        read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
    )
    all_tools: list[tuple[Callable[..., Awaitable[Content]], str, ToolAnnotations]] = [
        (tools.generate_image, "Generate an image", adds),
        (tools.edit_image, "Edit an image", adds),
        (tools.get_generation, "Get a generation", reads),
        (tools.list_images, "List images", reads),
        (tools.upload_reference, "Upload a reference image", adds),
    ]
    for tool, title, hints in all_tools:
        server.add_tool(tool, title=title, annotations=hints, structured_output=False)
    return server


class Tools:
    """The tools; their docstrings and parameters are what the language model reads."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def generate_image(
        self,
        prompt: str,
        context: Context,
        aspect_ratio: AspectRatio = "1:1",
        template: TemplateName = "general",
        enhance: bool = True,
        negative_prompt: str = "",
        seed: int | None = None,
        steps: int | None = None,
        reference_images: list[str] | None = None,
        reference_strength: float | None = None,
        request_id: str | None = None,
    ) -> Content:
        """Generate an image from a prompt and return it with its URL, seed and enhanced prompt.

        prompt: what the image shows. aspect_ratio: its shape. template: the style in which a local
        language model enhances the prompt; enhance=false uses the prompt unchanged.
        negative_prompt: what the image must not show. seed: the same seed gives the same image.
        steps: denoising steps, 1 to 100. reference_images: up to three ids or aliases of images to
        paint from; reference_strength: 0 (they are not seen) to 1 (hardly anything else is).
        request_id: any text of your own; a call with the same one and the same parameters returns
        the same image instead of another one.
        """
        options: GenerationOptions = {
            "aspect_ratio": aspect_ratio,
            "template": template,
            "auto_enhance": enhance,
            "negative_prompt": negative_prompt,
        }
        if reference_images:
            options["reference_images"] = reference_images
        _add_given(options, seed=seed, steps=steps, reference_strength=reference_strength)
        return await self._paint(context, "generate", prompt, request_id, options)

    async def edit_image(
        self,
        image: str,
        prompt: str,
        context: Context,
        mask: str | None = None,
        strength: float | None = None,
        enhance: bool = False,
        negative_prompt: str = "",
        seed: int | None = None,
        request_id: str | None = None,
    ) -> Content:
        """Paint a new image from one that is there; the old one stays as it is.

        image: its id (image_id of another tool's answer) or alias. prompt: what the new image
        shows, all of it. mask: the id or alias of an image whose white part is painted anew, while
        the rest stays. strength: how much of the old image is kept, 0 to 1. enhance: whether a
        local language model enhances the prompt. seed: the same seed gives the same image.
        request_id: as in generate_image.
        """
        options: GenerationOptions = {
            "reference_images": [image],
            "auto_enhance": enhance,
            "negative_prompt": negative_prompt,
        }
        _add_given(options, mask=mask, reference_strength=strength, seed=seed)
        return await self._paint(context, "edit", prompt, request_id, options)

    async def get_generation(self, generation_id: str, context: Context) -> Content:
        """Return the state of a generation, and its image once there is one."""
        with _as_tool_errors():
            async with self._connect(context) as client:
                return await _content(client, await client.get(generation_id))

    async def list_images(
        self,
        context: Context,
        limit: int = 20,
        offset: int = 0,
        source: Literal["generated", "uploaded"] | None = None,
    ) -> Content:
        """List the images, newest first: id, alias, URL and size. limit is 1 to 100."""
        with _as_tool_errors():
            async with self._connect(context) as client:
                page = await client.images(limit=limit, offset=offset, source=source)
        images = [_image_facts(each) for each in page.data]
        return [_text({"images": images, "total": page.pagination.total})]

    async def upload_reference(
        self, data: str, context: Context, alias: str | None = None
    ) -> Content:
        """Store an image to paint from and return its id.

        data: a PNG, JPEG or WebP of at most 5 MB, in base64. alias: a name for it, such as @logo,
        by which prompts and the other tools can refer to it.
        """
        try:
            content = base64.b64decode(data.rpartition("base64,")[2], validate=True)
        except binascii.Error as error:
            raise ToolError(f"data: is not base64: {error}") from error
        with _as_tool_errors():
            async with self._connect(context) as client:
                image = await client.upload(content, alias=alias)
        return [_text(_image_facts(image))]

    async def _paint(
        self,
        context: Context,
        tool: str,
        prompt: str,
        request_id: str | None,
        options: GenerationOptions,
    ) -> Content:
        """Submit the generation, report its progress until it has ended, and return the image."""
        key = None if request_id is None else f"mcp-{tool}-{request_id}"
        with _as_tool_errors():
            async with self._connect(context) as client:
                generation = await client.create(prompt, idempotency_key=key, **options)
                # The answer to an earlier call is as old as that call.
                generation = await client.get(generation.id)
                progress = 0.0
                while generation.status not in ("success", "failed"):
                    progress = max(progress + HEARTBEAT, _progress(generation))
                    await context.report_progress(progress, 1.0, _stage(generation))
                    generation = await client.get(generation.id, wait=WAIT_SECONDS)
                    # A server that stops does not wait any more.
                    await asyncio.sleep(PAUSE_SECONDS)
                if generation.status == "failed":
                    raise ToolError(
                        f"{generation.error_message or 'It failed'} (generation {generation.id})"
                    )
                return await _content(client, generation)


@asynccontextmanager
async def open_mcp(application: ASGIApp) -> AsyncIterator[ASGIApp]:
    """The endpoint for MCP's streamable HTTP, whose tools call `application` itself.

    It keeps no sessions, so that a client goes on after a restart.
    """

    # ASGI is one protocol; Litestar, Starlette and httpx2 each have types of their own for it.
    whole: Any = application

    @asynccontextmanager
    async def connect(context: Context) -> AsyncIterator[AsyncClient]:
        request: Any = context.request_context.request
        # With the host that the client knows, from which the URLs of pictures are made.
        url = f"{request.url.scheme}://{request.headers.get('host', '127.0.0.1')}"
        transport = httpx2.ASGITransport(whole)
        async with AsyncClient(url, key_text(request.scope), transport=transport) as client:
            yield client

    manager = StreamableHTTPSessionManager(
        create_mcp_server(connect)._lowlevel_server,
        stateless=True,
        # A page of another origin has no key, whatever its host's name stands for.
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        max_request_body_size=MAX_BODY_BYTES,
    )
    async with manager.run():
        handler: Any = manager.handle_request
        yield handler


def run_stdio(url: str, key: str) -> None:
    """Serve on standard input and output until that is closed, for the server at `url`."""

    @asynccontextmanager
    async def connect(_: Context) -> AsyncIterator[AsyncClient]:
        async with AsyncClient(url, key) as client:
            yield client

    create_mcp_server(connect).run("stdio")


@contextmanager
def _as_tool_errors() -> Iterator[None]:
    try:
        yield
    except BanatieError as error:
        raise ToolError(str(error)) from error


def _add_given(options: GenerationOptions, **values: Any) -> None:
    given: Any = {name: value for name, value in values.items() if value is not None}
    options.update(given)


def _progress(generation: GenerationView) -> float:
    done = generation.progress
    return 0.95 * done.step / done.steps if done and done.steps else 0.0


def _stage(generation: GenerationView) -> str:
    done = generation.progress
    return f"step {done.step} of {done.steps}" if done else "waiting"


async def _content(client: AsyncClient, generation: GenerationView) -> Content:
    """The picture, small enough for a chat, and the facts."""
    facts = {
        "generation_id": generation.id,
        "status": generation.status,
        "prompt": generation.prompt,
        "original_prompt": generation.original_prompt,
        "seed": generation.seed,
        "warnings": generation.warnings,
    }
    if generation.error_message is not None:
        facts["error"] = generation.error_message
    output = generation.output_image
    if generation.status != "success" or output is None:
        return [_text(facts)]
    facts |= {
        "image_id": output.id,
        "url": output.storage_url,
        "size": f"{output.width}x{output.height}",
    }
    content = await client.download(generation)
    copy = await asyncio.to_thread(fit_into, content, MAX_PICTURE_BYTES)
    data = base64.b64encode(copy.data).decode()
    return [ImageContent(type="image", data=data, mime_type=copy.mime_type), _text(facts)]


def _image_facts(image: ImageView) -> dict[str, Any]:
    return {
        "image_id": image.id,
        "alias": image.alias,
        "url": image.storage_url,
        "source": image.source,
        "size": f"{image.width}x{image.height}",
        "generation_id": image.generation_id,
    }


def _text(facts: dict[str, Any]) -> TextContent:
    return TextContent(type="text", text=msgspec.json.encode(facts).decode())
