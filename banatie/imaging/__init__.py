"""Imaging: encodes pictures, decodes uploads, keeps thumbnails.

Knows no models, jobs or rows, and never imports torch.
"""
