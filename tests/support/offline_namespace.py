"""Everything a user does, in a network namespace that has a loopback and no route to anywhere.

Run by `test_offline.py` as a separate process, since a namespace cannot be left again. Two things
watch: the connection guard inside every Python process, and the namespace's kernel, which counts
packets without a route, from whatever library they came. Prints the observations as JSON.
"""

from __future__ import annotations

import fcntl
import json
import signal
import socket
import struct
import sys
from pathlib import Path

from tests.support.service import Service, TinyModels

ELSEWHERE = ("203.0.113.1", "2001:db8::1")
"""Addresses for documentation (RFC 5737, RFC 3849): no host has them."""
SET_INTERFACE_FLAGS, INTERFACE_UP = 0x8914, 1


def main(folder: Path, models: TinyModels) -> dict[str, object]:
    set_loopback_up()
    observed: dict[str, object] = {"interfaces": [name for _, name in socket.if_nameindex()]}
    # Check first that the kernel's counter counts.
    observed["own_attempts"] = try_to_connect()
    observed["own_packets_without_route"] = before = packets_without_route()

    service = Service(folder, models)
    # Temptations: the service must follow neither of these.
    service.environment |= {"HF_HUB_OFFLINE": "0", "HTTPS_PROXY": f"http://{ELSEWHERE[0]}:3128"}
    try:
        server, _ = service.serve()
        record = service.post("a red fox", prefer="wait=60", steps=2)
        observed["status"], observed["warnings"] = record["status"], record["warnings"]
        observed["enhanced"] = record["prompt"] != record["originalPrompt"]
        picture = service.picture(record)
        observed["png"] = picture.startswith(b"\x89PNG")
        observed["pages"] = [
            service.request("GET", path).status_code
            for path in ("/docs", "/openapi.json", "/metrics", "/api/info")
        ]
        arguments = ("generate", "a blue bird", "--steps", "2", "-o", str(folder / "bird.png"))
        observed["generate_beside"] = service.run(*arguments).returncode
        observed["doctor"] = json.loads(service.run("doctor", "--json").stdout)["ok"]
        service.stop(server, signal.SIGTERM)

        observed["generate_alone"] = service.run(*arguments).returncode
        service.serve()
        observed["picture_stays"] = service.picture(record) == picture
        observed["backup"] = service.run("backup", str(folder / "backup.tar")).returncode
    finally:
        observed["left"] = service.close()
    observed["foreign_addresses"] = service.foreign_addresses()
    observed["packets_without_route"] = packets_without_route() - before
    return observed


def set_loopback_up() -> None:
    """`ip link set lo up`, which a machine may lack."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", INTERFACE_UP)
        fcntl.ioctl(any_socket, SET_INTERFACE_FLAGS, request)


def try_to_connect() -> list[str]:
    """Try to connect to other hosts by each protocol; the result of each attempt."""
    results = []
    for address in ELSEWHERE:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            # A kernel may have no IPv6 at all.
            try:
                with socket.socket(family, kind) as attempt:
                    attempt.connect((address, 443))
                    results.append("connected")
            except OSError as error:
                results.append(error.strerror)
    return results


def packets_without_route() -> int:
    """How many packets of this namespace found no route so far."""
    names, numbers = (
        line.split()
        for line in Path("/proc/self/net/snmp").read_text().splitlines()
        if line.startswith("Ip:")
    )
    count = int(numbers[names.index("OutNoRoutes")])
    six = Path("/proc/self/net/snmp6")
    if six.exists():
        count += int(dict(line.split() for line in six.read_text().splitlines())["Ip6OutNoRoutes"])
    return count


if __name__ == "__main__":
    folder, painting, language = map(Path, sys.argv[1:])
    json.dump(main(folder, TinyModels(painting, language)), sys.stdout)
