"""The pictures' files."""

from __future__ import annotations

from banatie.store.files import Files, generated_key


def test_files_appear_whole_and_are_found(tmp_path):
    files = Files(tmp_path)
    kept, stray = generated_key("o", "p", "1"), generated_key("o", "p", "2")
    files.save(kept, b"one")
    files.save(stray, b"two")
    files.path(kept).with_suffix(".png.part").write_bytes(b"half")
    assert files.generated() == {kept, stray, f"{kept}.part"}
    files.remove(kept)
    files.remove(kept)
    assert not files.path(kept).exists()
