"""Models on this machine: which there are, how they come, and whether they are whole."""
