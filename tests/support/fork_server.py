"""Starts workers in half a second, sound ones and wounded ones; other commands, too.

Importing torch takes most of a worker's start. This process does it once and forks for each
worker; the child then runs `banatie worker` as the command line does. It reads one JSON object a
line, `{"arguments", "environment", "folder", "log", "wounds", "place"}`, and answers with the
child's process id. `place` is a process whose view of the disks the child shares, or none. When its
standard input closes it ends, and its children with it.
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
    "banatie.worker.enhance",
    "banatie.worker.paint",
    "banatie.enhancement.enhancer",
    "banatie.painting.painter",
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


def _work(
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    log: str,
    wounds: dict[str, Any],
    place: int | None,
) -> int:
    if place is not None:
        _enter(place)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for opened, standard in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(opened, standard)

    from banatie.cli.main import run
    from tests.support import fault_injection as inflicted

    for name, parameters in wounds.items():
        getattr(inflicted, name)(**parameters)
    return run(arguments)


def _enter(process: int) -> None:
    # Python has os.setns from 3.12 on.
    library = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{process}/ns/mnt") as mounts:
        if library.setns(mounts.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")


if __name__ == "__main__":
    main()
