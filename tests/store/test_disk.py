"""The disk of the data folder; a full one is a tmpfs in tests/faults/test_disk.py."""

from __future__ import annotations

from banatie.store.disk import RESERVE_BYTES, fill_reserve, is_full, is_read_only, release_reserve


def test_a_disk_with_room_takes_a_reserve_that_is_released_once(tmp_path):
    assert not is_full(tmp_path)
    assert not is_read_only(tmp_path)
    assert not release_reserve(tmp_path)
    fill_reserve(tmp_path)
    fill_reserve(tmp_path)
    [reserve] = tmp_path.iterdir()
    assert reserve.stat().st_size == RESERVE_BYTES
    assert release_reserve(tmp_path)
    assert not release_reserve(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_not_full(tmp_path):
    assert not is_full(tmp_path / "gone")
    fill_reserve(tmp_path / "gone")
    assert list(tmp_path.iterdir()) == []
