"""Hooks for schemathesis, which imports this by the environment's `SCHEMATHESIS_HOOKS`."""

from __future__ import annotations

from itertools import count
from typing import Any

import schemathesis

numbers = count()


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: Any) -> None:
    """Keep the rules that a schema cannot express."""
    # A key with another body is refused, so each key is used once.
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and 1 <= len(key) <= 200:
        case.headers["Idempotency-Key"] = f"{key}{next(numbers)}"
    # In JSON Schema, 7.0 is an integer.
    if isinstance(case.body, dict):
        for name in ("seed", "steps"):
            value = case.body.get(name)
            if isinstance(value, float) and value.is_integer():
                case.body[name] = int(value)
        loras = case.body.get("loras")
        # Only installed LoRAs are valid, each once; the test has installed this many.
        for number, lora in enumerate(loras if isinstance(loras, list) else ()):
            if isinstance(lora, dict) and isinstance(lora.get("name"), str):
                lora["name"] = f"lora-{number}"
