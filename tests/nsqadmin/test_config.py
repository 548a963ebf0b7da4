"""/config is for clients of one network. Its values: `test_site.py`."""

from __future__ import annotations

import pytest

from nsqadmin.config import check_network
from nsqkit.service.http import HttpError
from tests.nsqadmin.asking import request


def status(remote: str, cidr: str, *headers: tuple[bytes, bytes]) -> int:
    try:
        check_network(cidr, request(remote, *headers))
    except HttpError as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    ("remote", "cidr", "expected"),
    [
        ("127.0.0.1:1", "127.0.0.1/8", 200),
        ("127.9.9.9:1", "127.0.0.1/8", 200),
        ("10.0.0.1:1", "127.0.0.1/8", 403),
        ("10.0.0.1:1", "", 200),
        ("[::1]:1", "127.0.0.1/8", 403),
        ("[::1]:1", "::1/128", 200),
        ("@", "127.0.0.1/8", 400),
        ("@", "", 200),
    ],
)
def test_the_address_of_a_client_decides(remote: str, cidr: str, expected: int) -> None:
    assert status(remote, cidr) == expected


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ([b"127.0.0.1"], 200),
        ([b"127.0.0.1, 127.0.0.2"], 200),
        ([b"203.0.113.9"], 403),
        ([b"127.0.0.1, 203.0.113.9"], 403),
        ([b"203.0.113.9,127.0.0.1"], 403),
        ([b"127.0.0.1", b"203.0.113.9"], 403),
        ([b"unknown"], 403),
        ([b"\xff"], 403),
    ],
)
def test_an_address_behind_a_proxy_must_be_in_the_network(forwarded: list[bytes], expected: int) -> None:
    headers = [(b"x-forwarded-for", each) for each in forwarded]
    assert status("127.0.0.1:1", "127.0.0.1/8", *headers) == expected
    assert status("127.0.0.1:1", "", *headers) == 200
    assert status("203.0.113.9:1", "127.0.0.1/8", *headers) == 403
