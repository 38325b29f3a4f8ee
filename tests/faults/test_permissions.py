"""A database that this user may read and not write."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.support.faulty_service import FaultyService

AS_ANY_USER = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
"""Without root's right to ignore permissions."""


@pytest.fixture(scope="module")
def not_writable(
    service_factory: Callable[..., AbstractContextManager[FaultyService]],
) -> Iterator[FaultyService]:
    """A service with a database that is read-only; no process runs there."""
    with service_factory() as service:
        service.stop(service.server)
        (service.data / "banatie.db").chmod(0o444)
        if os.geteuid() == 0:
            if shutil.which(AS_ANY_USER[0]) is None:
                pytest.skip("root ignores permissions, and setpriv is not installed")
            service.launcher = AS_ANY_USER
        yield service


@pytest.mark.parametrize(
    "command",
    [["serve"], ["worker"], ["generate", "a cat"], ["keys", "create", "--name", "k"], ["migrate"]],
    ids=lambda command: command[0],
)
def test_a_database_that_cannot_be_written_is_named(
    not_writable: FaultyService, command: list[str]
) -> None:
    ended = not_writable.run(*command)
    assert (ended.returncode, ended.stdout) == (1, "")
    named = r"banatie: [^\n]*/banatie\.db cannot be written: it is read-only for this user\n"
    assert re.fullmatch(named, ended.stderr)


def test_a_worker_that_ends_by_an_error_does_not_abort(not_writable: FaultyService) -> None:
    with subprocess.Popen(
        [*not_writable.launcher, sys.executable, "-m", "banatie", "worker", "--until-stdin-closes"],
        cwd=not_writable.folder,
        env=not_writable.environment,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.wait(60) == 1
        assert worker.stderr.read().count("\n") == 1


def test_the_doctor_finds_it(not_writable: FaultyService) -> None:
    ended = not_writable.run("doctor")
    assert ended.returncode == 1
    assert re.search(r"FAIL  database +\S*banatie\.db is read-only for this user →", ended.stdout)
