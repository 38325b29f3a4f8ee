"""Memory and threads within the limits of cgroups, on trees of both versions and for real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from banatie.devices.host_limits import limited_threads, memory_available, memory_total

GIB = 1 << 30
UNLIMITED_V1 = 9223372036854771712
V2_MOUNT = "30 23 0:28 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "33 31 0:30 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.fixture
def version_2(tmp_path):
    """A tree of version 2 in which this process is in /a/b; its folder."""
    write(tmp_path / "proc/self", cgroup="0::/a/b", mountinfo=V2_MOUNT.format(top="/"))
    return tmp_path / "sys/fs/cgroup"


@pytest.fixture
def version_1(tmp_path):
    """A tree of version 1 in which this process is in /a/b; its folder."""
    write(
        tmp_path / "proc/self",
        cgroup="4:memory:/a/b\n2:cpu,cpuacct:/a/b\n0::/",
        mountinfo=V1_MOUNTS.format(top="/"),
    )
    return tmp_path / "sys/fs/cgroup"


def test_without_limits_it_is_the_machine(version_2, tmp_path):
    write(version_2 / "a/b", memory__max="max", memory__current=5, cpu__max="max 100000")
    assert memory_total(tmp_path) == psutil.virtual_memory().total
    assert limited_threads(6, tmp_path) == 6


def test_where_there_are_no_cgroups_it_is_the_machine(tmp_path):
    assert memory_total(tmp_path) == psutil.virtual_memory().total
    assert abs(memory_available(tmp_path) - psutil.virtual_memory().available) < GIB
    assert limited_threads(6, tmp_path) == 6


@pytest.mark.parametrize("level", ["", "a", "a/b"])
def test_version_2_limits_count_at_every_level(version_2, tmp_path, level):
    write(version_2 / "a/b", memory__max="max", memory__current=5, cpu__max="max 100000")
    write(
        version_2 / level,
        memory__max=GIB // 2,
        memory__current=GIB // 4,
        memory__stat=f"anon 5\ninactive_file {GIB // 8}",
        cpu__max="50000 100000",
    )
    assert memory_total(tmp_path) == GIB // 2
    assert memory_available(tmp_path) == GIB // 2 - GIB // 8
    assert limited_threads(6, tmp_path) == 1


def test_the_soft_limit_of_version_2_counts_too(version_2, tmp_path):
    write(version_2 / "a/b", memory__max=GIB, memory__high=GIB // 2, memory__current=0)
    assert memory_total(tmp_path) == GIB // 2


@pytest.mark.parametrize("level", ["", "a", "a/b"])
def test_version_1_limits_count_at_every_level(version_1, tmp_path, level):
    unlimited = {"memory__limit_in_bytes": UNLIMITED_V1, "memory__usage_in_bytes": 5}
    write(version_1 / "memory/a/b", **unlimited)
    write(
        version_1 / "memory" / level,
        memory__limit_in_bytes=GIB // 2,
        memory__usage_in_bytes=GIB // 4,
        memory__stat=f"inactive_file 1\ntotal_inactive_file {GIB // 8}",
    )
    write(version_1 / "cpu,cpuacct/a/b", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    write(version_1 / "cpu,cpuacct" / level, cpu__cfs_quota_us=250000, cpu__cfs_period_us=100000)
    assert memory_total(tmp_path) == GIB // 2
    assert memory_available(tmp_path) == GIB // 2 - GIB // 8
    assert limited_threads(6, tmp_path) == 2
    assert limited_threads(1, tmp_path) == 1


@pytest.mark.parametrize("path", ["/docker/1f/inner", "/../elsewhere", "/system.slice"])
def test_in_a_container_only_a_part_of_the_tree_is_mounted(tmp_path, path):
    write(
        tmp_path / "proc/self",
        cgroup=f"4:memory:{path}",
        mountinfo=V1_MOUNTS.format(top="/docker/1f"),
    )
    mounted = tmp_path / "sys/fs/cgroup/memory"
    write(mounted, memory__limit_in_bytes=GIB // 2, memory__usage_in_bytes=0)
    write(mounted / "inner", memory__limit_in_bytes=UNLIMITED_V1, memory__usage_in_bytes=0)
    assert memory_total(tmp_path) == GIB // 2


def test_more_use_than_the_limit_leaves_nothing(version_2, tmp_path):
    write(version_2 / "a/b", memory__max=GIB // 2, memory__current=GIB)
    assert memory_available(tmp_path) == 0


@pytest.fixture
def real_limit() -> Iterator[Path]:
    """A cgroup of this machine with a limit of 512 MiB; skips where none can be made."""
    for top, name in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        folder = Path("/sys/fs/cgroup", top, f"banatie-test-{os.getpid()}")
        try:
            folder.mkdir()
            (folder / name).write_text(str(GIB // 2))
        except OSError:
            if folder.is_dir():
                folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("only root outside of containers can make a cgroup")


def test_a_process_in_a_real_cgroup_sees_its_limit(real_limit):
    script = (
        f"import os; open({str(real_limit / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        "from banatie.devices.host_limits import memory_available, memory_total\n"
        "print(memory_total(), memory_available())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    total, available = map(int, ended.stdout.split())
    assert total == GIB // 2
    assert 0 < available <= total
