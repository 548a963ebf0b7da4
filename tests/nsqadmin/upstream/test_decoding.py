"""What a response may contain: sizes, numbers, names, texts. Each of these once cost more than a warning."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from nsqadmin.cluster.merge import attribute_to_node, merge_topic
from nsqadmin.model import ChannelStats, ClientStats, Node, TopicStats
from nsqadmin.upstream import decoding
from nsqadmin.upstream.decoding import Stats, decode_info, decode_names, decode_producers, decode_stats
from nsqkit.decoding import DecodeError
from tests.nsqadmin.fake_upstream import channel, node, topic


def stats(*topics: dict[str, Any], clients: bool = False, **values: Any) -> Stats:
    return decode_stats(json.dumps({"topics": topics, **values}).encode(), clients=clients)


def only(found: Stats) -> TopicStats:
    assert found.topics is not None
    [topic] = found.topics
    return topic


def latency(count: int, *values: float) -> dict[str, Any]:
    percentiles = [{"quantile": 0.99, "value": value} for value in values]
    return {"e2e_processing_latency": {"count": count, "percentiles": percentiles}}


class TestNumbers:
    def test_counts_of_a_latency_cannot_add_up_to_zero(self) -> None:
        # As weights of an average they were divided by, and no node had a snapshot any more.
        with pytest.raises(DecodeError, match="count"):
            stats(topic("t", **latency(-3, 1.0)))

    @pytest.mark.parametrize("value", [1e308, -1e308, 2e18])
    def test_percentiles_cannot_become_infinite(self, value: float) -> None:
        with pytest.raises(DecodeError, match="value"):
            stats(topic("t", **latency(1, value)))

    def test_the_largest_values_are_merged_into_finite_ones(self) -> None:
        parts = []
        for number, value in enumerate((1e18, 0.0, 1e18)):
            part = only(stats(topic("t", depth=2**63 - 1, **latency(2**63 - 1, value, value))))
            attribute_to_node(part, Node(f"n{number}", 4151, 4150))
            parts.append(part)
        merged = merge_topic("t", parts)
        assert merged.depth == 3 * (2**63 - 1)
        [percentile] = merged.e2e_processing_latency.percentiles or []
        assert 0 < percentile.average < 1e18
        assert (percentile.min, percentile.max, percentile.count) == (0.0, 1e18, 6 * (2**63 - 1))

    @pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**400])
    @pytest.mark.parametrize("field", ["depth", "message_count", "oldest_unfinished_ms"])
    def test_integers_have_64_bits(self, number: int, field: str) -> None:
        with pytest.raises(DecodeError):
            stats(topic("t", **{field: number}))
        with pytest.raises(DecodeError):
            stats(topic("t", channel("c", **{field: number})))

    def test_counters_below_zero_are_shown(self) -> None:
        assert only(stats(topic("t", depth=-5))).depth == -5


class TestNames:
    @pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a/b", "a\n", "<b>", "\u2603", "a#other"])
    def test_invalid_ones_are_refused(self, name: str) -> None:
        for found in (topic(name), topic("t", channel(name))):
            with pytest.raises(DecodeError, match="name"):
                stats(found)

    @pytest.mark.parametrize("name", [".", "..", "a#ephemeral", "x" * 64, "A-b_c.9"])
    def test_valid_ones_are_not(self, name: str) -> None:
        found = only(stats(topic(name, channel(name))))
        assert (found.topic_name, [each.channel_name for each in found.channels or ()]) == (name, [name])

    def test_none_occurs_twice(self) -> None:
        # The API had the key of such a channel twice, and sums counted it twice.
        with pytest.raises(DecodeError, match="a topic occurs twice"):
            stats(topic("t"), topic("t"))
        with pytest.raises(DecodeError, match="a channel occurs twice"):
            stats(topic("t", channel("c"), channel("c")))


class TestFieldsOfTheConsole:
    def test_no_response_sets_them(self) -> None:
        deep: dict[str, Any] = {"topic_name": "t"}
        for _ in range(300):
            deep = {**deep, "-nodes": [deep], "-channels": [], "-node": "x"}
        hidden = {"-nodes": [{"channel_name": "c"}], "-clients": [{}], "-topic": "other"}
        found = only(stats({**deep, "channels": [{"channel_name": "c", **hidden}]}))
        attribute_to_node(found, Node("a", 4151, 4150))
        assert found.channels is not None
        [channel] = found.channels
        assert (found.nodes, found.node) == (None, "a:4151")
        assert (channel.nodes, channel.clients, channel.topic_name) == (None, None, "t")

    def test_nor_those_of_a_registry(self) -> None:
        listed = {**node("a:4151", "t"), "-topics": [{"topic": "other"}]}
        [producer] = decode_producers(json.dumps({"producers": [listed]}).encode()).values
        assert [each.topic for each in producer.topics] == ["t"]


class TestClients:
    def test_they_are_decoded_only_if_they_are_wanted(self) -> None:
        sent = topic("t", {"channel_name": "c", "clients": [{"client_id": "x"}]})
        for clients, known in ((False, None), (True, ["x"])):
            [channel] = only(stats(sent, clients=clients)).channels or []
            found = channel.clients
            assert (None if found is None else [each.client_id for each in found]) == known

    def test_each_is_decoded_by_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # A call holds the lock of the interpreter: nothing else would happen while it decodes 50,000 clients.
        decoded = Counter[type]()
        original = decoding.decode_bounded

        def counted(data: Any, type_: type[Any]) -> Any:
            decoded[type_] += 1
            return original(data, type_)

        monkeypatch.setattr(decoding, "decode_bounded", counted)
        stats(
            topic("t", {"channel_name": "c", "clients": [{}] * 300}), topic("u", channel("c")), clients=True
        )
        assert (decoded[TopicStats], decoded[ChannelStats], decoded[ClientStats]) == (2, 2, 300)

    def test_long_texts_are_cut(self) -> None:
        # Any client can send them to its nsqd, and must not cost the nsqd its place on the console.
        sent = {"client_id": "x", "user_agent": "a" * 100_000, "hostname": "\u2603" * 100_000}
        found = only(stats(topic("t", {"channel_name": "c", "clients": [sent]}), clients=True))
        [client] = (found.channels or [])[0].clients or []
        assert (client.client_id, client.user_agent, client.hostname) == ("x", "a" * 1_024, "\u2603" * 1_024)


class TestSizes:
    @pytest.mark.parametrize("field", ["version", "health"])
    def test_texts_of_a_node_are_short(self, field: str) -> None:
        with pytest.raises(DecodeError, match=field):
            stats(**{field: "x" * 1_025})

    def test_topics_and_channels_are_limited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decoding, "MAX_NAMES", 5)
        full = [topic("a", channel("c"), channel("d")), topic("b", channel("c"))]
        assert len(stats(*full).topics or ()) == 2
        with pytest.raises(DecodeError, match="more than 5 topics and channels"):
            stats(*full, topic("c"))

    def test_a_registry_cannot_make_the_console_poll_any_number_of_nodes(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(decoding, "MAX_NODES", 2)
        sent = {"producers": [node(f"{name}:4151") for name in "abcd"]}
        found = decode_producers(json.dumps(sent).encode())
        assert [each.broadcast_address for each in found.values] == ["a", "b"]
        assert (found.left_out, found.first_left_out[:18]) == (2, "more than 2 of the")

    @pytest.mark.parametrize(
        "entry", [b"{}", b"[]", b"1", b'""', b'{"client_id":""}', b"null"], ids=lambda entry: entry.decode()
    )
    @pytest.mark.parametrize("path", ["topics", "producers", "channels"])
    def test_the_number_of_values_is_limited_before_there_are_objects_of_them(
        self, entry: bytes, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # 40 MB of `{},` were objects of several GB.
        def no_objects(*_: object, **__: object) -> None:
            raise AssertionError("decoded")

        body = b'{"%s":[%s]}' % (path.encode(), b",".join([entry] * 1_010))
        monkeypatch.setattr(decoding, "MAX_VALUES", 1_000)
        monkeypatch.setattr(decoding, "MAX_OBJECTS", 1_000)
        monkeypatch.setattr(decoding, "decode_bounded", no_objects)
        for decode in (lambda: decode_stats(body, clients=True), lambda: decode_producers(body)):
            with pytest.raises(DecodeError, match="too many values"):
                decode()

    def test_the_largest_response_that_is_expected_is_not_too_large(self) -> None:
        client = b"{%s}" % b",".join(b'"key%d":%d' % (number, number) for number in range(26))
        body = b'{"topics":[{"topic_name":"t","channels":[{"channel_name":"c","clients":[%s]}]}]}'
        found = decode_stats(body % b",".join([client] * 50_000), clients=False)
        assert only(found).topic_name == "t"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"topics":' + b"[" * 100_000,
        b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"version":"\xff"}',
        b'{"version":"\\ud800"}',
        b'{"start_time":1e400}',
        b'{"start_time":NaN}',
        b'{"start_time":' + b"9" * 5_000 + b"}",
        b'{"topics":[',
    ],
)
def test_what_is_not_json_is_an_error(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_stats(body, clients=True)
    with pytest.raises(DecodeError):
        decode_info(body)


@pytest.mark.parametrize("kind", ["topics", "channels"])
def test_entries_that_are_no_names_are_counted(kind: Any) -> None:
    found = decode_names(json.dumps({kind: ["a", None, "b c", 10**30, "d"]}).encode(), kind)
    assert (found.values, found.left_out) == (["a", "d"], 3)
    assert found.first_left_out == "Expected `str`, got `null`: b'null'"
