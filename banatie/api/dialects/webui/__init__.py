"""Stable Diffusion WebUI's API below `/sdapi/v1`, as its clients speak it; see the docs."""
