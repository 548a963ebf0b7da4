"""Names in paths."""

from __future__ import annotations

from urllib.parse import unquote

from nsqadmin.paths import channel_path, name_of_segment, node_path, segment, topic_path


def test_any_name_is_one_segment_of_a_path() -> None:
    assert segment("a/b?c#d e&f%") == "a%2Fb%3Fc%23d%20e%26f%25"
    assert segment("jobs#ephemeral") == "jobs%23ephemeral"


def test_a_segment_is_never_a_dot_segment() -> None:
    assert (segment("."), segment(".."), segment("...")) == ("~.", "~..", "...")
    for name in (".", "..", "...", "a.b", "~", "~.a"):
        assert name_of_segment(unquote(segment(name))) == name


def test_a_channel_without_a_name_is_its_topic() -> None:
    assert channel_path("a/b", "c#d") == "/topics/a%2Fb/c%23d"
    assert channel_path("a/b", "") == topic_path("a/b") == "/topics/a%2Fb"
    assert node_path("10.0.0.1:4151") == "/nodes/10.0.0.1%3A4151"
