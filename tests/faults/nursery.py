"""Starts workers in half a second, sound ones and wounded ones.

Importing torch takes most of a worker's start. This process does it once and forks for each
worker; the child then runs `banatie worker` as the command line does. It reads one JSON object a
line, `{"environment", "folder", "log", "wounds"}`, and answers with the child's process id. When
its standard input closes it ends, and its children with it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
IMPORTS = (
    "banatie.runner",
    "banatie.inference.enhancer",
    "banatie.inference.painter",
    "transformers.models.llama.modeling_llama",
    "transformers.models.clip.tokenization_clip",
)


def main() -> None:
    """Fork a worker for each line."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    os.environ.update(TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    for name in IMPORTS:
        importlib.import_module(name)
    # The kernel takes dead children away by itself.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    # Without look-ahead: a child must not inherit lines that were read but not yet seen.
    while line := sys.stdin.readline():
        child = os.fork()
        if not child:
            # Taking all of torch down in good order costs seconds and shows nothing.
            os._exit(_work(**json.loads(line)))
        print(child, flush=True)


def _work(environment: dict[str, str], folder: str, log: str, wounds: dict[str, Any]) -> int:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for opened, standard in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(opened, standard)

    from banatie.cli import run
    from tests.faults import wounds as inflicted

    for name, parameters in wounds.items():
        getattr(inflicted, name)(**parameters)
    return run(["worker"])


if __name__ == "__main__":
    main()
