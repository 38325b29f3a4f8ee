"""What `scripts/bench` measures; every figure is a ratio, or stands beside its goal."""
