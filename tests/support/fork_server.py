"""Starts workers in half a second, with faults or without; also other commands.

Importing torch takes most of a worker's start. The server process does it once and forks for each
worker; the child then runs `banatie worker` as the command line does. The server reads one JSON
object a line, with the parameters of `_run_command`, and answers with the child's process id. When
its standard input closes, it exits, and its children with it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PR_SET_PDEATHSIG = 1
START_TIMEOUT_SECONDS = 120
"""Importing torch and diffusers on a busy machine."""
IMPORTS = (
    "banatie.worker.process",
    "banatie.enhancement.enhancer",
    "banatie.painting.painter",
    "transformers.models.llama.modeling_llama",
    "transformers.models.clip.tokenization_clip",
)


class ForkServer:
    """The client's side: the server process, and the pipe to it."""

    def __init__(self, folder: Path) -> None:
        self._errors = (folder / "fork-server.txt").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._unread = b""

    def start(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        log: Path,
        faults: Mapping[str, Mapping[str, object]],
        mount_namespace_of: int | None = None,
    ) -> int:
        """Start `python -m banatie` with these arguments; its process id.

        The names of `faults` are functions of `fault_injection`, with their parameters. With
        `mount_namespace_of` the child sees the file systems of that process.
        """
        order = {
            "arguments": list(arguments),
            "environment": dict(environment),
            "folder": str(folder),
            "log": str(log),
            "faults": faults,
            "mount_namespace_of": mount_namespace_of,
        }
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        while (answer := self._read_line()) == b"ready":
            pass
        return int(answer)

    def close(self) -> None:
        """Stop it and every child that is left."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)
        self._errors.close()

    def _read_line(self) -> bytes:
        output = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            ready, _, _ = select.select([output], [], [], START_TIMEOUT_SECONDS)
            part = os.read(output, 4096) if ready else b""
            if not part:
                said = Path(self._errors.name).read_text("utf-8", "replace")
                raise AssertionError(f"the fork server does not answer: {said[-3000:]}")
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line


def main() -> None:
    """Fork a child for each line of standard input."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    os.environ.update(TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    for name in IMPORTS:
        importlib.import_module(name)
    # The kernel reaps dead children by itself.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    # Unbuffered: a child must not inherit lines that were read ahead.
    while line := sys.stdin.readline():
        child = os.fork()
        if not child:
            # An orderly exit with torch loaded takes seconds and shows nothing.
            os._exit(_run_command(**json.loads(line)))
        print(child, flush=True)


def _run_command(
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    log: str,
    faults: dict[str, dict[str, Any]],
    mount_namespace_of: int | None,
) -> int:
    """Run `banatie` in this process, the child; its exit code."""
    if mount_namespace_of is not None:
        _enter_mount_namespace(mount_namespace_of)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    log_file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    null = os.open(os.devnull, os.O_RDONLY)
    for opened, standard in ((null, 0), (log_file, 1), (log_file, 2)):
        os.dup2(opened, standard)

    from banatie.cli.main import run
    from tests.support import fault_injection

    for name, parameters in faults.items():
        getattr(fault_injection, name)(**parameters)
    return run(arguments)


def _enter_mount_namespace(process: int) -> None:
    # Python has os.setns from 3.12 on.
    library = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{process}/ns/mnt") as mounts:
        if library.setns(mounts.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")


if __name__ == "__main__":
    main()
