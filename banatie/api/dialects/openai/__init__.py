"""The OpenAI Images API: `/v1/images/…` and `/v1/models` (docs/clients.md)."""
