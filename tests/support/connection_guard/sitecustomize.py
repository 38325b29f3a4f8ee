"""Logs, inside every Python process of a tested service, the hosts that it wants to talk to.

Python imports a module of this name by itself where the folder is on `PYTHONPATH`. Each address
that the process connects or sends to, and each name it looks up, becomes a line of the file
`CONNECTION_LOG`.
"""

from __future__ import annotations

import os
import sys


def _log_connection(event: str, arguments: tuple) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[-1]
        # A Unix socket's address is a path, and an unnamed one's None: both stay on this machine.
        if not isinstance(address, tuple):
            return
        host = address[0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    descriptor = os.open(_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{host}\n".encode())
    os.close(descriptor)


if _log := os.environ.get("CONNECTION_LOG"):
    sys.addaudithook(_log_connection)
