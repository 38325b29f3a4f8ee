"""Other protocols than Banatie's own, each a thin translation to `intake` and `library`.

None knows another. What differs before a route is found (where the key stands, the shape of
errors) is in a dialect's `Dialect`, which the middleware asks for.
"""

from __future__ import annotations

from banatie.api.dialects.dialect import Dialect
from banatie.api.dialects.openai.protocol import OPENAI
from banatie.api.dialects.webui.access import WEBUI

DIALECTS = (OPENAI, WEBUI)


def dialect_of(path: str) -> Dialect | None:
    """The dialect of the requests for this path; None for the Banatie API and everything else."""
    for dialect in DIALECTS:
        if path.startswith(dialect.prefix) and path[len(dialect.prefix) :][:1] in ("", "/"):
            return dialect
    return None
