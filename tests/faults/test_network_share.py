"""A data folder on a disk without working locks: the C library's calls fail as on such a share."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.faulty_service import FaultyService
from tests.support.service import free_port

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is(const char *fault) {
    const char *set = getenv("FAULT");
    return set && !strcmp(set, fault);
}

#define FCNTL(name)                                                       \
    int name(int file, int command, ...) {                                \
        va_list rest;                                                     \
        va_start(rest, command);                                          \
        void *argument = va_arg(rest, void *);                            \
        va_end(rest);                                                     \
        if (command == F_SETLK && is("hang")) for (;;) pause();           \
        if (command == F_SETLK && is("locks")) { errno = ENOLCK; return -1; } \
        int (*real)(int, int, ...) = dlsym(RTLD_NEXT, #name);             \
        return real(file, command, argument);                             \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        va_list rest;                                                     \
        va_start(rest, flags);                                            \
        int mode = va_arg(rest, int);                                     \
        va_end(rest);                                                     \
        const char *end = strstr(path, "-shm");                           \
        if (end && !end[4] && is("memory")) { errno = EIO; return -1; }   \
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name);    \
        return real(path, flags, mode);                                   \
    }
OPEN(open)
OPEN(open64)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that lets those calls fail which `FAULT` names."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    folder: Path = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    command = ["cc", "-w", "-shared", "-fPIC", "-o", "shim.so", "shim.c", "-ldl"]
    subprocess.run(command, cwd=folder, check=True)
    return str(folder / "shim.so")


@pytest.mark.parametrize("command", ["serve", "worker"])
@pytest.mark.parametrize("fault", ["locks", "hang", "memory"])
def test_a_disk_without_locks_is_named_at_once(
    service: FaultyService, shim: str, fault: str, command: str
) -> None:
    place = service.folder / "share"
    settings = {"BANATIE_STORAGE__DATA_DIR": str(place), "LD_PRELOAD": shim, "FAULT": fault}
    ended = service.run(command, BANATIE_SERVER__PORT=str(free_port()), **settings)
    assert (ended.returncode, ended.stdout) == (1, "")
    named = rf"banatie: {place} cannot be used: file locks do not work on its disk, \S+ at /\S* "
    assert re.fullmatch(rf"{named}\(.+\); set storage\.data_dir to [^\n]+\n", ended.stderr)
