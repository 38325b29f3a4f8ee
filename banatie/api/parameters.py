"""Path parameters that several routes share."""

from __future__ import annotations

from typing import Annotated

from litestar.params import PathParameter

GenerationId = Annotated[str, PathParameter(schema_extra={"format": "uuid"})]
