"""Banatie: a self-hosted image generation service with local models."""

__version__ = "0.1.0"
