"""What there is to compute on, and how its memory is laid out."""
