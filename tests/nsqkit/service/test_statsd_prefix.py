"""The prefix of statsd metrics, as nsqd sends it and as nsqadmin asks for it."""

from __future__ import annotations

import pytest

from nsqkit.service.statsd_prefix import expand_prefix


@pytest.mark.parametrize(
    ("prefix", "expanded"),
    [
        ("nsq.%s", "nsq.127_0_0_1_4151."),
        ("nsq.%s.", "nsq.127_0_0_1_4151."),
        ("%s.%s", "127_0_0_1_4151.127_0_0_1_4151."),
        ("plain", "plain."),
        ("", ""),
        ("%d.%s", "%d.127_0_0_1_4151."),
    ],
)
def test_prefixes(prefix: str, expanded: str) -> None:
    assert expand_prefix(prefix, "127.0.0.1:4151") == expanded


@pytest.mark.parametrize(
    ("node", "expanded"),
    [
        ("a-b.example.com:80", "nsq.a-b_example_com_80."),
        ("fd00::1:4151", "nsq.fd00__1_4151."),
        ("[fd00::1]:4151", "nsq.fd00__1_4151."),
        ("*", "nsq.*."),
    ],
)
def test_nodes(node: str, expanded: str) -> None:
    assert expand_prefix("nsq.%s", node) == expanded
