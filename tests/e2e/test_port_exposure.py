"""The warning of a server that other machines can reach, and how to end it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.service import web_server_only

HINT = "Others can reach this server"


def test_the_first_key_alone_on_an_open_address_is_warned_of(tmp_path: Path) -> None:
    with web_server_only(tmp_path, "--host", "0.0.0.0") as service:
        log = service.log.read_text()
        [console] = [line for line in log.splitlines() if line.startswith("WARNING: ")]
        [logged] = [line for line in log.splitlines() if " WARNING banatie.serve: " in line]
        for line in (console, logged):
            assert HINT in line
            assert "0.0.0.0" in line
            assert "banatie keys create" in line
            assert "banatie keys revoke default" in line
            assert service.key not in line


def test_what_the_warning_says_to_do_ends_it(tmp_path: Path) -> None:
    with web_server_only(tmp_path) as service:
        # Other machines cannot reach this one.
        assert HINT not in service.log.read_text()
        key = service.run("keys", "create", "--name", "mine").stdout.strip()
        assert service.run("keys", "revoke", "default").returncode == 0
    with web_server_only(tmp_path, "--host", "0.0.0.0") as service:
        service.key = key
        assert service.request("GET", "/api/v1/generations").status_code == 200
        assert HINT not in service.log.read_text()


@pytest.mark.parametrize("host", ["127.0.0.2", "localhost"])
def test_every_loopback_address_is_closed(tmp_path: Path, host: str) -> None:
    with web_server_only(tmp_path, "--host", host) as service:
        assert HINT not in service.log.read_text()
