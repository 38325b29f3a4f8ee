"""`banatie serve`: runs the HTTP server in this process and supervises its workers.

A graceful shutdown (SIGTERM, SIGINT) wakes the clients that wait, lets open requests finish and
stops the workers, which give their rows back. What a request is answered is for `api`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import importlib.util
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server

from banatie.api.app import create_app
from banatie.api.mcp_endpoint import OpenMcp
from banatie.config import Config
from banatie.errors import BanatieError, ConfigError
from banatie.services import Services, open_services
from banatie.store.keys import Keys
from banatie.store.local_disk import check_locks
from banatie.store.locks import PROBE_SECONDS, hold_role, is_alive
from banatie.store.workers import WorkerState, state_of
from banatie.supervisor import STOP_SECONDS, Supervisor

logger = logging.getLogger(__name__)

STORE_THREADS = 4
"""How many requests may read from the disk at once."""
MOST_CONNECTIONS = 4000
"""More connections wait. A client that waits for a picture, or sends slowly, holds one."""
OTHER_FILES = 200
"""Other open files: the database, images being sent, the log."""
FIRST_KEY_NAME = "default"
READY_CHECK_SECONDS = 0.3


@dataclass(frozen=True)
class Announcement:
    """What people are told once the server answers."""

    url: str
    first_key: str | None
    """On the first start, the text of the new API key."""
    token: str | None
    """On the first start, a token for a browser to sign in with."""
    warning: str | None


def serve(
    config: Config,
    clock: Callable[[], int],
    worker_command: Sequence[str] | None,
    announce: Callable[[Announcement], None],
    report: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT.

    `announce` is called once the server answers. `worker_command` starts a worker on the first
    device, and with `--device NAME` on another; without it none is started. `report` gets a line
    when the models begin to load and when they are ready. Raises DataFolderBusy,
    DataFolderUnusable and ConfigError.
    """
    ip_address = find_address(config)
    check_locks(config.storage.data)
    with hold_role(config.storage.data, "serve", timeout=PROBE_SECONDS):
        services = open_services(config, clock)
        first_key = token = None
        if services.keys.is_empty():
            if config.server.studio:
                token = services.sessions.create_token(clock())
            if config.server.first_key:
                first_key = services.keys.create(FIRST_KEY_NAME, clock())
            else:
                logger.info("no API key yet; POST /api/bootstrap/initial-key creates the first")
        if warning := _exposure(services.keys, ip_address):
            logger.warning("%s", warning)

        async def welcome() -> None:
            url = await _url_that_answers(config)
            announce(Announcement(url, first_key, token, warning))
            if worker_command is not None:
                await _report_readiness(services, report)

        asyncio.run(_serve(services, ip_address, worker_command, welcome))


async def _serve(
    services: Services,
    ip_address: str,
    worker_command: Sequence[str] | None,
    welcome: Callable[[], Coroutine[None, None, None]],
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="store"))
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        # Windows lacks it; there Ctrl-C ends asyncio.run itself.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(signal_number, stop.set)
    app = create_app(services, _load_mcp if importlib.util.find_spec("mcp") else None)
    server = Server(
        app,
        address=ip_address,
        port=services.config.server.port,
        interface=Interfaces.ASGI,
        # No browser speaks HTTP/2 without TLS, and its streams have no time limit.
        http=HTTPModes.http1,
        # For a request's head, and for the next request on an open connection.
        http1_settings=HTTP1Settings(
            header_read_timeout=round(services.config.limits.body_seconds * 1000)
        ),
        # granian's name for the number of open connections; its default here is 128.
        backpressure=_connections(),
        backlog=1024,
        websockets=False,
        # On the default level it only warns that embedding is experimental; see docs/decisions.
        log_level=LogLevels.error,
        # Without handlers of its own: its lines go to the root logger.
        log_dictconfig={
            "formatters": {},
            "handlers": {},
            "loggers": {"_granian": {"propagate": True}},
        },
    )
    serving = asyncio.create_task(server.serve())
    supervising = asyncio.create_task(_supervise(services, worker_command))
    stopping = asyncio.create_task(stop.wait())
    try:
        announcing = asyncio.create_task(welcome())
        done, _ = await asyncio.wait(
            {serving, stopping, supervising}, return_when=asyncio.FIRST_COMPLETED
        )
        announcing.cancel()
        for task in done:
            # Only `stopping` ends without an exception.
            task.result()
    finally:
        # A graceful stop waits for open requests, so those that only wait are answered.
        app.end_waiting()
        server.stop()
        supervising.cancel()
        # The supervisor kills a worker that takes longer than STOP_SECONDS.
        await asyncio.wait({serving, supervising}, timeout=STOP_SECONDS + 1)
        services.close()


async def _load_mcp() -> OpenMcp:
    """Import the MCP server, which takes a second or two, without holding up other requests."""
    module = await asyncio.to_thread(importlib.import_module, "banatie.mcp_server")
    opened: OpenMcp = module.open_mcp
    return opened


async def _supervise(services: Services, worker_command: Sequence[str] | None) -> None:
    if worker_command is None:
        # Until it is cancelled.
        await asyncio.get_running_loop().create_future()
    else:
        config = services.config
        devices, data = config.painting.devices, config.storage.data
        await Supervisor(worker_command, devices, services.workers, data, services.clock).run()


async def _url_that_answers(config: Config) -> str:
    """The server's address, once it answers there."""
    while True:
        try:
            _, writer = await asyncio.open_connection(config.server.local_host, config.server.port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.close()
        return url_of(config)


def url_of(config: Config) -> str:
    """The server's address for people: the public one, or the one on this machine."""
    return config.server.base_url or config.server.local_url


def answers(config: Config) -> bool:
    """Whether a server accepts connections where these settings say."""
    try:
        socket.create_connection((config.server.local_host, config.server.port), timeout=5).close()
    except OSError:
        return False
    return True


async def _report_readiness(services: Services, report: Callable[[str], None]) -> None:
    """Report that the models load, and when a worker is ready or why none will be."""
    report("Loading the models. Requests are accepted meanwhile …")
    while True:
        await asyncio.sleep(READY_CHECK_SECONDS)
        workers: list[WorkerState] = []
        # The disk may be full; the workers report again.
        with contextlib.suppress(BanatieError):
            workers = await asyncio.to_thread(_living_workers, services)
        state = state_of(workers)
        if state == "ready":
            report(f"Ready: {workers[0].painting_model} paints on {workers[0].device}")
            return
        if state == "broken":
            reason = workers[0].reason or "The worker is broken"
            report(f"Not ready: {reason}. `banatie doctor` finds out more")
            return


def _living_workers(services: Services) -> list[WorkerState]:
    # The row of a worker that was killed stays for a while.
    data = services.config.storage.data
    present = services.workers.present(services.clock())
    return [worker for worker in present if is_alive(data, worker.id)]


def _exposure(keys: Keys, ip_address: str) -> str | None:
    """A warning if other machines can reach the server with the first key alone."""
    if ipaddress.ip_address(ip_address).is_loopback:
        return None
    if {key.name for key in keys.all() if key.revoked_at is None} != {FIRST_KEY_NAME}:
        return None
    return (
        f"Others can reach this server (it listens on {ip_address}), and its only API key is the "
        "one that the first start printed, perhaps into a log. Create another with "
        f"`banatie keys create --name NAME`, then `banatie keys revoke {FIRST_KEY_NAME}`"
    )


def _connections() -> int:
    """The number of connections that may be open; raises this process's limit of open files."""
    if sys.platform == "win32":
        return MOST_CONNECTIONS
    import resource

    wanted = MOST_CONNECTIONS + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard):
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(wanted - OTHER_FILES, wanted // 2)


def find_address(config: Config) -> str:
    """The IP address to listen on. Raises ConfigError if it is taken or not of this machine."""
    host, port = config.server.host, config.server.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # Allows a port that a stopped server has just left, but none that is in use.
            if sys.platform != "win32":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return str(address[0])
    except socket.gaierror as error:
        raise ConfigError(f"server.host: {host!r} is no address of this machine") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"Port {port} on {host} is taken; choose another with --port"
            raise ConfigError(message) from error
        raise ConfigError(f"Cannot listen on {host}:{port}: {error.strerror}") from error
