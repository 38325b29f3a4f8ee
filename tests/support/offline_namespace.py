"""A user's day in a network namespace that has a loopback and no route to anywhere.

Run by `test_offline.py` as a process of its own, since a namespace is entered for good. Two watch:
the ears inside every Python process, and the namespace's kernel, which counts what found no route,
from whatever library it came. Prints as JSON what happened.
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
"""Addresses for documentation (RFC 5737, RFC 3849): nobody has them."""
SET_INTERFACE_FLAGS, INTERFACE_UP = 0x8914, 1


def main(folder: Path, models: TinyModels) -> dict[str, object]:
    raise_loopback()
    told: dict[str, object] = {"interfaces": [name for _, name in socket.if_nameindex()]}
    # What is counted on must be seen to count.
    told["own_attempts"] = reach_out()
    told["counted_of_own"] = before = without_route()

    house = Service(folder, models)
    # To tempt them: neither of these is followed.
    house.environment |= {"HF_HUB_OFFLINE": "0", "HTTPS_PROXY": f"http://{ELSEWHERE[0]}:3128"}
    try:
        server, _ = house.serve()
        record = house.post("a red fox", prefer="wait=60", steps=2)
        told["status"], told["warnings"] = record["status"], record["warnings"]
        told["enhanced"] = record["prompt"] != record["originalPrompt"]
        picture = house.picture(record)
        told["png"] = picture.startswith(b"\x89PNG")
        told["pages"] = [
            house.request("GET", path).status_code
            for path in ("/docs", "/openapi.json", "/metrics", "/api/info")
        ]
        arguments = ("generate", "a blue bird", "--steps", "2", "-o", str(folder / "bird.png"))
        told["generate_beside"] = house.run(*arguments).returncode
        told["doctor"] = json.loads(house.run("doctor", "--json").stdout)["ok"]
        house.stop(server, signal.SIGTERM)

        told["generate_alone"] = house.run(*arguments).returncode
        house.serve()
        told["picture_stays"] = house.picture(record) == picture
        told["backup"] = house.run("backup", str(folder / "backup.tar")).returncode
    finally:
        told["left"] = house.close()
    told["strangers"] = house.strangers()
    told["counted_of_theirs"] = without_route() - before
    return told


def raise_loopback() -> None:
    """`ip link set lo up`, which a machine may lack."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", INTERFACE_UP)
        fcntl.ioctl(any_socket, SET_INTERFACE_FLAGS, request)


def reach_out() -> list[str]:
    """Try to leave, by both protocols; what became of each try."""
    became = []
    for address in ELSEWHERE:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            # A kernel may know no IPv6 at all.
            try:
                with socket.socket(family, kind) as attempt:
                    attempt.connect((address, 443))
                    became.append("connected")
            except OSError as error:
                became.append(error.strerror)
    return became


def without_route() -> int:
    """How often something in this namespace wanted to go where no route leads."""
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
    place, painting, language = map(Path, sys.argv[1:])
    json.dump(main(place, TinyModels(painting, language)), sys.stdout)
