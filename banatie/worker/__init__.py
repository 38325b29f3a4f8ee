"""The worker process: what makes the pictures, one process for each device."""
