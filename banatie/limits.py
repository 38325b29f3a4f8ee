"""The fixed limits of a request, read by HTTP, the command line and intake alike.

Limits that a configuration can change are `config.Limits`. What exceeds a limit is refused
elsewhere.
"""

from __future__ import annotations

MAX_SAFE_INTEGER = 2**53 - 1
"""The largest whole number that every JSON reader keeps exactly (RFC 8259, section 6)."""

MAX_SEED = MAX_SAFE_INTEGER
MIN_STEPS, MAX_STEPS = 1, 100
MAX_GUIDANCE_SCALE = 20
MAX_LORAS = 4
MAX_LORA_WEIGHT = 4
"""Weights range from minus this to plus this."""

MAX_META_DEPTH = 64
"""More levels than real metadata has, and few enough for every JSON reader."""

MAX_IDEMPOTENCY_KEY_LENGTH = 255
MAX_WAIT_SECONDS = 120
"""The longest time that a client can ask an answer to wait for the picture (`Prefer: wait=N`)."""

LOADING_WAIT_SECONDS = 30.0
"""How long an answer waits for the enhanced prompt while a worker loads its models."""

MAX_PAGE_SIZE = 100
"""Generations in one answer to a list request."""
