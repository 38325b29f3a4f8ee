"""Prompt enhancement: what the user asks for, said so that a better picture comes of it."""
