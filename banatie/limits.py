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

MAX_REFERENCES = 3
MAX_ALIAS_LENGTH = 100
"""With the @ at its beginning."""

MIN_SIDE, MAX_SIDE, SIDE_STEP = 64, 2048, 8
"""The sides of a picture in pixels: the shortest, the longest, and what they are multiples of."""
MAX_SIZE_FACTOR = 2
"""How many times the model's own number of pixels a picture may have."""
MAX_UPSCALE = 2
MAX_QUALITY = 100

MAX_UPLOAD_BYTES = 5 * 1024 * 1024
MAX_UPLOAD_PIXELS = 50_000_000
"""More than nearly all cameras have; decoded, it takes 200 MB."""

MAX_META_DEPTH = 64
"""More levels than real metadata has, and few enough for every JSON reader."""

MAX_IDEMPOTENCY_KEY_LENGTH = 255
MAX_WAIT_SECONDS = 120
"""The longest time that a client can ask an answer to wait for the picture (`Prefer: wait=N`)."""

MAX_SCOPE_SLUG_LENGTH = 100
MAX_SCOPE_LIMIT = 1_000_000
"""Of the new images an hour in a scope."""
LOADING_WAIT_SECONDS = 30.0
"""How long an answer waits for the enhanced prompt while a worker loads its models."""

MAX_PAGE_SIZE = 100
"""Entries in one answer to a list request."""

MAX_SEARCH_LENGTH = 200
MAX_ZIP_PICTURES = 200
"""So many ids fit into the 8 KB that common proxies allow a request's first line."""

MAX_EXPIRY_DAYS = 36_500
MAX_REQUESTS_PER_HOUR = 1_000_000_000
"""Of the limit that a key has of its own."""
