"""Webhooks: addresses that are refused, and signatures."""

from __future__ import annotations

import asyncio
import socket

import pytest

from banatie.config import WebhookSettings, load_config
from banatie.errors import ConfigError, ValidationError
from banatie.webhooks import Unreachable, WebhookRules, is_public, signature
from tests.support.receiver import SECRET


@pytest.fixture
def rules():
    made = WebhookRules(WebhookSettings(secret=SECRET))
    yield made
    made.close()


def test_the_signature_is_that_of_the_published_example():
    # From the specification of Standard Webhooks.
    body = b'{"event_type":"ping","data":{"success":true}}'
    secret = "whsec_plJ3nmyCDGBKInavdOK15jsl"
    assert signature(secret, "msg_loFOjxBNrRLzqYUf", 1731705121, body) == (
        "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="
    )


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_an_address_of_the_internet_is_public(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "fec0::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1"),
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)
def test_any_other_address_is_not(address: str):
    assert not is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/", "https://localhost/x", "http://[::1]:8000/", "http://127.1/"),
        *("http://2130706433/", "http://0x7f.1/", "http://10.0.0.1/", "http://[::ffff:10.0.0.1]/"),
    ],
)
def test_a_private_address_is_refused_in_every_notation(rules: WebhookRules, url: str):
    with pytest.raises(ValidationError, match="not a public address"):
        rules.check(url)
    with pytest.raises(Unreachable, match="not a public address"):
        asyncio.run(rules.target(url))


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.org/x", "ftp://example.org/", "http://", "http:///x", "file:///etc/passwd"),
        *("http://user:word@8.8.8.8/", "http://8.8.8.8/#a", "http://8.8.8.8:99999/"),
        *(
            "http://8.8.8.8/a b",
            "http://8.8.8.8/\n",
            "http://[::1/",
            "http://8.8.8.8/" + "a" * 2000,
        ),
    ],
)
def test_what_is_no_url_of_a_receiver_is_refused(rules: WebhookRules, url: str):
    with pytest.raises(ValidationError, match="URL"):
        rules.check(url)


def test_a_public_address_and_a_name_that_is_not_known_now_are_accepted(rules: WebhookRules):
    rules.check("https://8.8.8.8/hook?x=1")
    rules.check("https://no-such-host.invalid/hook")
    with pytest.raises(Unreachable, match=r"no-such-host.invalid cannot be resolved"):
        asyncio.run(rules.target("https://no-such-host.invalid/hook"))


def test_a_name_whose_address_has_changed_is_refused_on_sending(
    rules: WebhookRules, monkeypatch: pytest.MonkeyPatch
):
    answers = [["8.8.8.8"], ["8.8.8.8", "127.0.0.1"]]

    def getaddrinfo(*_: object, **__: object):
        return [(socket.AF_INET, 1, 6, "", (each, 80)) for each in answers.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    rules.check("http://rebinding.example/")
    with pytest.raises(Unreachable, match=r"rebinding.example \(127.0.0.1\)"):
        asyncio.run(rules.target("http://rebinding.example/"))


def test_without_a_secret_a_webhook_is_refused_with_the_remedy():
    rules = WebhookRules(WebhookSettings())
    with pytest.raises(ValidationError, match=r"webhooks.secret"):
        rules.check("https://8.8.8.8/")
    rules.close()


def test_private_addresses_can_be_allowed():
    rules = WebhookRules(WebhookSettings(secret=SECRET, allow_private=True))
    rules.check("http://127.0.0.1:9/")
    assert asyncio.run(rules.target("http://127.0.0.1:9/")).addresses == ("127.0.0.1",)
    rules.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"webhooks.secret": "secret"}, "secret: takes whsec_"),
        ({"webhooks.secret": "whsec_c2hvcnQ="}, "secret: takes whsec_"),
        ({"webhooks.urls": "https://example.org"}, "urls: needs secret"),
        ({"webhooks.urls": "ftp://x", "webhooks.secret": SECRET}, "urls: 'ftp://x' is not"),
        ({"webhooks.attempts": "0"}, "attempts"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=message) as refused:
        load_config(None, {}, settings)
    assert SECRET not in str(refused.value)
    assert "c2hvcnQ" not in str(refused.value)
