"""Checks and measures Banatie on a GPU; see docs/gpu.md."""
