"""A lexicon of things, and how prompts are read and enriched by it; no language model needed."""
