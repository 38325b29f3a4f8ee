"""Painting: a Stable Diffusion XL pipeline turns a prompt and its settings into a picture."""
