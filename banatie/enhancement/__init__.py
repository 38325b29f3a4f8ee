"""Prompt enhancement: a language model and templates add visible detail to a user's prompt."""
