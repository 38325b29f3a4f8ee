"""Conversion of models into the layout that is loaded: the only part of `models` with torch."""
