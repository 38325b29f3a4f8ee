"""The worker process: enhances prompts and paints pictures, one process for each device."""
