"""The routes of `/sdapi/v1`."""

from __future__ import annotations

from litestar import Router

from banatie.api.dialects.webui import lists, painting, settings
from banatie.api.dialects.webui.access import WEBUI_PREFIX


def webui_router() -> Router:
    """The routes of Stable Diffusion WebUI's API."""
    return Router(
        WEBUI_PREFIX,
        route_handlers=[
            painting.txt2img,
            painting.img2img,
            painting.progress,
            painting.interrupt,
            painting.skip,
            settings.get_options,
            settings.set_options,
            settings.png_info,
            *lists.HANDLERS,
        ],
        # Its documentation is WebUI's; in /openapi.json are Banatie's own routes.
        include_in_schema=False,
        tags=["Stable Diffusion WebUI"],
    )
