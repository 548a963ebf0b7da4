"""The soft limit of descriptors is raised to the hard one; who has how many of them."""

from __future__ import annotations

import resource

import pytest

from nsqkit.service.descriptors import http_share, raise_descriptor_limit


def test_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 500), hard))
    try:
        assert raise_descriptor_limit() == hard
        assert raise_descriptor_limit() == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("limit", "share"), [(64, 16), (1024, 128), (1 << 20, 10_000), (resource.RLIM_INFINITY, 10_000)]
)
def test_http_has_a_share(limit: int, share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert http_share() == share
    assert http_share(3 / 4) >= share
