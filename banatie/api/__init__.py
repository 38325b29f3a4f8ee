"""The HTTP front: the Banatie Image Generation API, spoken with Litestar."""
