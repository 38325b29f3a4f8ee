"""Conversion of models into the layout that is loaded; the one part of `models` with torch."""
