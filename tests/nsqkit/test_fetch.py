"""Where a daemon that wants TLS sends whoever asks it over plain HTTP."""

from __future__ import annotations

import pytest

from nsqkit.fetch import https_hint

HINT = b'{"message": "TLS_REQUIRED", "https_port": 4152}'


@pytest.mark.parametrize(
    ("url", "secure"),
    [
        ("http://a:4151/stats?format=json&topic=t%23", "https://a:4152/stats?format=json&topic=t%23"),
        ("http://a", "https://a:4152"),
        ("http://[::1]:4151/x", "https://[::1]:4152/x"),
        ("http://[::1]/x", "https://[::1]:4152/x"),
        ("http://joe:pass@a:4151/auth", "https://joe:pass@a:4152/auth"),
    ],
)
def test_the_same_place_over_https(url: str, secure: str) -> None:
    assert https_hint(url, 403, HINT) == secure


@pytest.mark.parametrize("status", [200, 401, 404])
def test_only_a_403_sends_elsewhere(status: int) -> None:
    assert https_hint("http://a:4151/", status, HINT) == ""


@pytest.mark.parametrize("url", ["https://a:4151/", "HTTPS://a:4151/"])
def test_over_https_it_is_final(url: str) -> None:
    assert https_hint(url, 403, HINT) == ""


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"https_port":0}', b'{"https_port":"1"}', b'{"https_port":65536}']
)
def test_a_403_without_a_port_sends_nowhere(body: bytes) -> None:
    assert https_hint("http://a:4151/", 403, body) == ""
