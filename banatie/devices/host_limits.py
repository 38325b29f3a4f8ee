"""What this process may use of the machine: its memory and processors, within its cgroups' limits.

A container or a systemd unit sees the whole machine's memory and processors, but the kernel ends or
throttles what uses more than its cgroup, or any cgroup above it, allows. Both versions of cgroups
are read (https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1). Never imports torch.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

ROOT = Path("/")
_ESCAPED = re.compile(r"\\([0-7]{3})")


def memory_total(root: Path = ROOT) -> int:
    """Bytes of main memory that this process may use: the machine's or the lowest limit."""
    limits = (limit for limit, _ in _memory_limits(root))
    return min([psutil.virtual_memory().total, *limits])


def memory_available(root: Path = ROOT) -> int:
    """Bytes that are free for this process on the machine and below every limit."""
    left = (max(0, limit - used) for limit, used in _memory_limits(root))
    return min([psutil.virtual_memory().available, *left])


def limited_threads(threads: int, root: Path = ROOT) -> int:
    """`threads`, or fewer where the cgroups allow less processor time; at least one."""
    return max(1, min([threads, *(int(processors) for processors in _cpu_limits(root))]))


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use in bytes, of this process's cgroup and each one above it.

    Cached files do not count as used: the kernel drops them when memory is needed.
    """
    for folder in _cgroups(root, "memory"):
        statistics = _table(folder / "memory.stat")
        if (used := _number(folder / "memory.current")) is not None:
            limits = (_number(folder / name) for name in ("memory.max", "memory.high"))
            cached = statistics.get("inactive_file", 0)
        elif (used := _number(folder / "memory.usage_in_bytes")) is not None:
            limits = (_number(folder / name) for name in ("memory.limit_in_bytes",))
            cached = statistics.get("total_inactive_file", 0)
        else:
            continue
        for limit in limits:
            if limit is not None:
                yield limit, max(0, used - cached)


def _cpu_limits(root: Path) -> Iterator[float]:
    """The processors whose time this process's cgroup, and each one above it, may use."""
    for folder in _cgroups(root, "cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if not quota:
            quota = _text(folder / "cpu.cfs_quota_us")
            period = _text(folder / "cpu.cfs_period_us")
        # Without a limit it is "max" (version 2) or -1.
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup and of each one above it that can be seen."""
    for mounted, top, is_ours in _hierarchies(root, controller):
        path = PurePosixPath(is_ours)
        # In a container only a part of the tree is mounted.
        can_be_seen = path.is_relative_to(top) and ".." not in path.parts
        folder = root / mounted.lstrip("/")
        yield folder
        for part in path.relative_to(top).parts if can_be_seen else ():
            folder = folder / part
            yield folder


def _hierarchies(root: Path, controller: str) -> Iterator[tuple[str, str, str]]:
    """Where each hierarchy with the controller is mounted, its top there, and our path in it."""
    paths: dict[str, str] = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        # Version 2 names no controllers.
        for name in controllers.split(","):
            paths[name] = path
    for line in _text(root / "proc/self/mountinfo").splitlines():
        fields, _, source = line.partition(" - ")
        top, mounted = fields.split(" ")[3:5]
        kind, *_, options = source.split(" ")
        is_version_2 = kind == "cgroup2"
        name = "" if is_version_2 else controller
        is_right = is_version_2 or (kind == "cgroup" and controller in options.split(","))
        if is_right and name in paths:
            yield _unescaped(mounted), _unescaped(top), paths[name]


def _unescaped(path: str) -> str:
    """A path of mountinfo, which writes spaces and the like as octal numbers."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), path)


def _table(file: Path) -> dict[str, int]:
    lines = (line.split(" ") for line in _text(file).splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    # Not on Linux, no such controller, or not ours to read.
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return file.read_text("utf-8").strip()
    return ""
