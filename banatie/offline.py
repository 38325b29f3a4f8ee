"""Keeps the libraries offline: at run time, nothing connects to another machine.

Only the commands of `banatie models` that download, and say so, leave this out.
"""

from __future__ import annotations

import os


def stay_offline() -> None:
    """Set the environment variables that keep the libraries offline, before they are imported."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[name] = "1"
    # Their progress bars and hints would hide Banatie's own log lines.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Two threads compute on the CPU at once; idle ones must sleep, or they slow the others.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
