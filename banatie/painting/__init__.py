"""Painting: from a prompt and its settings to a picture."""
