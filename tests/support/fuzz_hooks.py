"""Hooks for schemathesis, which imports this by the environment's `SCHEMATHESIS_HOOKS`."""

from __future__ import annotations

import re
from itertools import count
from typing import Any

import schemathesis

from tests.support.api_server import picture_bytes

numbers = count()

PICTURE = picture_bytes()
PLACE = re.compile(r"\d{4}-\d\d-\d\dT")
ALIAS = "@fuzzed"
"""The alias of an image that the test has uploaded."""


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: Any) -> None:
    """Keep the rules that a schema cannot express."""
    # A key with another body is refused, so each key is used once.
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and 1 <= len(key) <= 200:
        case.headers["Idempotency-Key"] = f"{key}{next(numbers)}"
    _keep_rules_of_lists(case.query)
    # In JSON Schema, 7.0 is an integer.
    if isinstance(case.body, dict):
        for name in ("seed", "steps"):
            value = case.body.get(name)
            if isinstance(value, float) and value.is_integer():
                case.body[name] = int(value)
        _keep_rules_of_pictures(case.body)
        # Of a scope's images there is none: no worker makes one.
        if isinstance(case.body.get("imageId"), str):
            case.body["imageId"] = None
        loras = case.body.get("loras")
        # Only installed LoRAs are valid, each once; the test has installed this many.
        for number, lora in enumerate(loras if isinstance(loras, list) else ()):
            if isinstance(lora, dict) and isinstance(lora.get("name"), str):
                lora["name"] = f"lora-{number}"


def _keep_rules_of_lists(query: dict[str, Any] | None) -> None:
    """Of a list's parameters: days that there are, words to look for, one way of paging."""
    query = query or {}
    for name in ("before", "after"):
        # Not every day that looks like one is in the calendar.
        if isinstance(value := query.get(name), str) and PLACE.match(value):
            query[name] = "2025-11-28T10:00:00.000Z"
            if str(query.get("offset", "")).isdecimal():
                query["offset"] = 0
    if isinstance(words := query.get("q"), str) and 1 <= len(words) <= 200:
        query["q"] = "fox"


def _keep_rules_of_pictures(body: dict[str, Any]) -> None:
    """Of a generation's or an upload's body: references that exist, and fields that agree."""
    if "file" in body:
        body["file"] = PICTURE
    if isinstance(body.get("meta"), str):
        body["meta"] = "{}"
    size = body.get("size")
    if isinstance(size, str) and "x" in size:
        # The model limits the number of pixels.
        body["size"] = "64x64"
        body.pop("aspectRatio", None)
    references = body.get("referenceImages")
    if isinstance(references, list):
        body["referenceImages"] = [ALIAS if isinstance(r, str) else r for r in references]
    if isinstance(body.get("mask"), str):
        body["mask"] = ALIAS
    if body.get("mask") is not None or body.get("referenceStrength") is not None:
        body["referenceImages"] = body.get("referenceImages") or [ALIAS]
    # The names of samplers and of their schedules are the model's, and go together.
    if isinstance(body.get("sampler"), str):
        body["sampler"] = "DPM++ 2M"
    if isinstance(body.get("scheduler"), str):
        body["sampler"], body["scheduler"] = "DPM++ 2M", "Karras"
    # A receiver that is called would be another machine.
    if isinstance(body.get("webhook"), str):
        del body["webhook"]
    if isinstance(body.get("quality"), int | float):
        body["outputFormat"] = "webp"
    if body.get("flowAlias") is not None and body.get("flowId", "") is None:
        del body["flowId"]
