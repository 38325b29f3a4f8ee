"""The HTTP API, implemented with Litestar."""
