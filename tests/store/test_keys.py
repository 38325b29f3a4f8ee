"""API keys: stored as a hash, found by their text, inactive once revoked or expired."""

from __future__ import annotations

import pytest

from banatie.errors import NotFound, ValidationError
from banatie.store.keys import is_active


def test_a_key_is_found_by_its_text_which_is_nowhere_in_the_file(keys, database):
    text = keys.create("laptop", 5)
    key = keys.authenticate(text)
    assert (key.name, key.project.slug, key.project.organization_slug) == (
        "laptop",
        "default",
        "default",
    )
    assert text.startswith(key.hint)
    database.query("PRAGMA wal_checkpoint(TRUNCATE)")
    assert text.encode() not in database.path.read_bytes()
    assert keys.authenticate(text + "x") is None


def test_a_blank_name_is_refused(keys):
    with pytest.raises(ValidationError, match="name"):
        keys.create("  ", 1)


def test_keys_stop_counting_when_revoked_or_expired(keys):
    text = keys.create("a", 1, expires_at=10)
    assert is_active(keys.authenticate(text), 9)
    assert not is_active(keys.authenticate(text), 10)
    other = keys.create("b", 1)
    keys.revoke("b", 5)
    assert not is_active(keys.authenticate(other), 6)


def test_revoking_needs_one_fitting_key(keys):
    keys.create("twice", 1)
    keys.create("twice", 2)
    with pytest.raises(NotFound, match="2 keys"):
        keys.revoke("twice", 3)
    with pytest.raises(NotFound, match="No key"):
        keys.revoke("never", 3)
    assert keys.revoke(keys.all()[0].id, 3).name == "twice"


def test_request_counts_are_kept(keys):
    keys.create("a", 1)
    key_id = keys.all()[0].id
    keys.save_request_counts({key_id: (5, 2)})
    keys.save_request_counts({key_id: (5, 3)})
    assert keys.request_counts() == {key_id: (5, 3)}
