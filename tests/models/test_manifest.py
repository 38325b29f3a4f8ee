"""Manifests: hashes of files, and paths that stay inside a model's folder."""

from __future__ import annotations

import pytest

from banatie.errors import ModelBroken
from banatie.models.manifest import is_path_inside, sha256_of


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("config.json", True),
        ("unet/config.json", True),
        ("a/b/c.txt", True),
        ("", False),
        (".", False),
        ("..", False),
        ("../x", False),
        ("a/../../x", False),
        ("a/../x", False),
        ("/x", False),
        ("a//x", False),
        ("./x", False),
        ("C:x", False),
        ("C:/x", False),
        ("a\\x", False),
        ("\\\\host\\x", False),
        ("a\0x", False),
        ("banatie.json", False),
    ],
)
def test_paths_that_lead_out_of_a_folder_are_known(name: str, inside: bool) -> None:
    assert is_path_inside(name) is inside


def test_the_hash_of_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "file") == expected
    with pytest.raises(ModelBroken, match="No such file"):
        sha256_of(tmp_path / "none")
