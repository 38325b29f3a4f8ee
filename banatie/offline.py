"""Keeps the libraries offline: at run time nothing opens a connection to another machine."""

from __future__ import annotations

import os


def stay_offline() -> None:
    """Tell the libraries, before they are imported, to fetch nothing; that they obey is tested."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[name] = "1"
    # Their progress bars and hints about packages that are not needed would only hide our lines.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Two threads compute at once on a CPU; those that wait must sleep, or they stall each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
