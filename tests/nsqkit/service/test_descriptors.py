"""The soft limit of descriptors is raised to the hard one."""

from __future__ import annotations

import resource

from nsqkit.service.descriptors import raise_descriptor_limit


def test_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 500), hard))
    try:
        assert raise_descriptor_limit() == hard
        assert raise_descriptor_limit() == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
