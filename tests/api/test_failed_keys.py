"""Trying keys: what it is answered, what it costs others, and what it leaves in memory and log."""

from __future__ import annotations

import logging

import pytest

from banatie.api.client_address import MAX_ADDRESSES, ClientAddresses, FailedKeyLimiter
from banatie.errors import BanatieError, TooManyFailedKeys, Unauthorized
from tests.support.api_server import GENERATIONS, assert_failure, serving

pytestmark = pytest.mark.anyio


async def tried(visitor, text="bnt_wrong", path=GENERATIONS, **headers):
    return await visitor.get(path, headers={"X-API-Key": text, **headers})


async def test_ten_thousand_keys_are_refused_and_a_good_one_counts_all_the_same(tmp_path, caplog):
    async with serving(tmp_path) as server:
        thief, good = server.visitor("192.0.2.7"), server.new_key()
        authentication = server.app.state.authentication
        refusals = []
        with caplog.at_level(logging.WARNING):
            assert_failure(await tried(thief), 401, "UNAUTHORIZED")
            # Not through a client, which takes ten times as long as what it asks.
            for number in range(10_000):
                with pytest.raises(BanatieError) as refused:
                    await authentication.key_of(f"bnt_{number:043}", scope("192.0.2.7"))
                refusals.append(type(refused.value))
        assert refusals == [Unauthorized] * 29 + [TooManyFailedKeys] * 9_971
        refused = await tried(thief)
        assert_failure(refused, 429, "RATE_LIMIT_EXCEEDED")
        assert refused.headers["retry-after"] == "60"
        # The first time that this key is seen: it needs the database, and gets it.
        assert (await tried(thief, good)).status_code == 200
        # Everybody else is told what they always are.
        assert_failure(await tried(server.visitor("192.0.2.8")), 401, "UNAUTHORIZED")
        [warning] = [r for r in caplog.records if r.name == "banatie.api.client_address"]
        assert "192.0.2.7" in warning.getMessage()
        assert "bnt_" not in caplog.text


async def test_after_a_minute_it_begins_anew(tmp_path):
    async with serving(tmp_path, limits__failed_keys_per_minute=2) as server:
        visitor = server.visitor("192.0.2.1")
        assert [(await tried(visitor)).status_code for _ in range(3)] == [401, 401, 429]
        server.clock.advance(seconds=59, milliseconds=1)
        assert (await tried(visitor)).headers["retry-after"] == "1"
        server.clock.advance(milliseconds=999)
        assert [(await tried(visitor)).status_code for _ in range(3)] == [401, 401, 429]


async def test_info_is_no_way_round(tmp_path):
    async with serving(tmp_path, limits__failed_keys_per_minute=2) as server:
        visitor = server.visitor()
        statuses = [(await tried(visitor, path="/api/info")).status_code for _ in range(3)]
        assert statuses == [401, 401, 429]
        assert_failure(await tried(visitor), 429, "RATE_LIMIT_EXCEEDED")
        assert (await visitor.get("/api/info")).status_code == 200


async def test_no_key_and_a_revoked_one_are_no_tries(tmp_path):
    async with serving(tmp_path, limits__failed_keys_per_minute=1) as server:
        visitor, revoked = server.visitor(), server.new_key()
        key_id = server.services.keys.authenticate(revoked).id
        server.services.keys.revoke(key_id, server.clock())
        for _ in range(5):
            assert (await visitor.get(GENERATIONS)).status_code == 401
            assert (await tried(visitor, revoked)).status_code == 401


async def test_zero_turns_the_limit_off(tmp_path):
    async with serving(tmp_path, limits__failed_keys_per_minute=0) as server:
        visitor = server.visitor()
        assert {(await tried(visitor)).status_code for _ in range(100)} == {401}


async def test_behind_a_trusted_proxy_the_caller_is_whom_the_proxy_names(tmp_path):
    settings = {"limits__failed_keys_per_minute": 1, "server__trusted_proxies": "10.0.0.0/8"}
    async with serving(tmp_path, **settings) as server:
        proxy, stranger = server.visitor("10.0.0.1"), server.visitor("192.0.2.9")

        async def statuses(visitor, *chains):
            answers = [await tried(visitor, **{"X-Forwarded-For": chain}) for chain in chains]
            return [answer.status_code for answer in answers]

        assert await statuses(proxy, "198.51.100.1", "198.51.100.1") == [401, 429]
        assert await statuses(proxy, "198.51.100.2") == [401]
        # What the caller wrote itself stands left of it, and a second proxy of ours right of it.
        assert await statuses(proxy, "203.0.113.5, 198.51.100.2, 10.0.0.2") == [429]
        # Who is no proxy is not believed, and speaks for itself alone.
        assert await statuses(stranger, "198.51.100.3", "198.51.100.4") == [401, 429]
        assert await statuses(proxy, "198.51.100.3") == [401]
        # Without a name that is one, it is the proxy.
        assert await statuses(proxy, "", "somebody", "10.0.0.1") == [401, 429, 429]


def callers(limit=1, now=0, **options):
    return FailedKeyLimiter(limit, ClientAddresses([]), lambda: now, **options)


def scope(address):
    return {"client": (address, 1) if address else None, "headers": []}


@pytest.mark.parametrize(
    ("address", "known_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("", "unknown"),
        ("testclient", "unknown"),
    ],
)
def test_an_address_is_known_as_what_one_caller_has(address, known_as):
    assert ClientAddresses([]).address_of(scope(address)) == known_as


def test_what_is_remembered_of_addresses_is_bounded():
    gate = callers()
    gate.count_failed_key(scope("192.0.2.1"))
    for number in range(MAX_ADDRESSES):
        gate.count_failed_key(scope(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
    assert len(gate._counter._windows) == MAX_ADDRESSES
    with pytest.raises(TooManyFailedKeys):
        gate.count_failed_key(scope("10.0.0.0"))
    # The one that began first is forgotten.
    gate.count_failed_key(scope("192.0.2.1"))
