"""Merging the responses of many nodes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqadmin.cluster.merge import merge_channel, merge_latency, merge_nodes, merge_topic, tell_apart
from nsqadmin.model import ChannelStats, Count, Latency, Limits, Node, Percentile, TopicStats

COUNTS = st.integers(0, 10**12)


def measured(count: int, *values: tuple[float, float]) -> Latency:
    return Latency(
        count, [Percentile(q, value, average=value, min=value, max=value, count=count) for q, value in values]
    )


class TestLatency:
    def test_latency_without_measurements_has_no_percentiles(self) -> None:
        merged = merge_latency([Latency(), Latency()])
        assert (merged.count, merged.percentiles) == (0, None)

    def test_quantiles_that_only_some_nodes_measure_are_kept(self) -> None:
        merged = merge_latency([measured(1, (0.5, 10)), measured(1, (0.99, 20), (0.5, 30))])
        assert merged.percentiles is not None
        assert [(p.quantile, p.average, p.count) for p in merged.percentiles] == [(0.99, 20, 1), (0.5, 20, 2)]

    def test_a_node_without_samples_does_not_change_the_latency(self) -> None:
        for parts in ([(0, 0.0), (4, 8.0)], [(4, 8.0), (0, 0.0)]):
            merged = merge_latency([measured(count, (0.9, value)) for count, value in parts])
            assert merged.percentiles is not None
            [one] = merged.percentiles
            assert (one.average, one.min, one.max, one.count) == (8, 8, 8, 4)

    @given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 1e12)), min_size=1, max_size=8))
    def test_the_average_is_weighted_by_count(self, parts: list[tuple[int, float]]) -> None:
        merged = merge_latency([measured(count, (0.5, value)) for count, value in parts])
        assert merged.percentiles is not None
        [one] = merged.percentiles
        total = sum(count for count, _ in parts)
        assert one.count == merged.count == total
        assert one.average == pytest.approx(sum(count * value for count, value in parts) / total)
        assert one.min == min(value for _, value in parts)
        assert one.max == max(value for _, value in parts)


class TestSums:
    @given(st.lists(st.tuples(COUNTS, COUNTS, COUNTS), max_size=6))
    def test_every_count_of_a_channel_is_summed(self, counts: list[tuple[int, int, int]]) -> None:
        parts = [
            ChannelStats("c", depth=a + b, backend_depth=a, timeout_count=c, hostname=f"h{number}")
            for number, (a, b, c) in enumerate(counts)
        ]
        merged = merge_channel("t", "c", parts)
        assert merged.memory_depth == sum(b for _, b, _ in counts)
        assert merged.timeout_count == sum(c for _, _, c in counts)
        assert merged.nodes == parts

    def test_every_integer_of_a_channel_or_topic_is_summed(self) -> None:
        for kind, merge in ((ChannelStats, lambda parts: merge_channel("t", "c", parts)), (TopicStats, None)):
            names = [f.name for f in msgspec.structs.fields(kind) if f.type == Count]
            parts = [
                kind("n", **{name: place + 10 * step for place, name in enumerate(names)}) for step in (1, 2)
            ]
            merged = merge(parts) if merge else merge_topic("n", parts)  # type: ignore[arg-type]
            assert [getattr(merged, name) for name in names] == [
                2 * place + 30 for place in range(len(names))
            ]

    def test_what_limits_did_is_summed_by_limit(self) -> None:
        limits = Limits(max_depth=5)
        parts = [
            ChannelStats("c", limits=limits, dropped_by_limits={"max_depth": 2}, rejected={"max_bytes": 1}),
            ChannelStats("c", dropped_by_limits={"max_depth": 3, "max_bytes": 4}),
            ChannelStats("c"),
        ]
        merged = merge_channel("t", "c", parts)
        assert merged.limits is limits
        assert merged.dropped_by_limits == {"max_depth": 5, "max_bytes": 4}
        assert merged.rejected == {"max_bytes": 1}
        assert merge_channel("t", "c", parts[2:]).dropped_by_limits is None

    def test_the_parts_of_a_sum_are_not_changed(self) -> None:
        part = TopicStats("t", [ChannelStats("c", depth=3, node="a:1")], node="a:1", hostname="a")
        before = msgspec.structs.asdict(part)
        merge_topic("t", [part, part])
        assert msgspec.structs.asdict(part) == before


class TestNodes:
    def node(self, port: int, version: str = "1.0.0", *seen: str) -> Node:
        return Node("h", port, port, hostname=f"h{port}", version=version, remote_addresses=list(seen))

    def test_each_node_is_listed_once_with_all_its_registries(self) -> None:
        merged = merge_nodes(
            [[self.node(1, "1.0.0", "a")], [self.node(1, "9.9.9", "b"), self.node(2, "1.0.0", "b")]]
        )
        assert [(node.tcp_port, node.version, node.remote_addresses) for node in merged] == [
            (1, "1.0.0", ["a", "b"]),
            (2, "1.0.0", ["b"]),
        ]

    def test_one_http_address_is_one_node(self) -> None:
        # Otherwise it is asked twice, its figures are counted twice, and the API has the keys of its channels twice.
        nodes = [Node("h", 4151, tcp_port, hostname=f"h{tcp_port}") for tcp_port in (4150, 4160)]
        assert [node.tcp_port for node in merge_nodes([nodes])] == [4150]
        assert [node.tcp_port for node in merge_nodes([[nodes[1]], [nodes[0]]])] == [4160]

    @pytest.mark.parametrize(
        ("answered", "called", "shown"),
        [
            (("a:1", "b:1"), ("a:1", "b:1"), ("a:1", "b:1")),
            (("a:1", "b:1"), ("x:1", "y:1"), ("x:1", "y:1")),
            (("a:1", "b:1"), ("x:1", "x:1"), ("x:1", "b:1")),
            (("a:1", "b:1"), ("b:1", "b:1"), ("a:1", "b:1")),
            (("a:1", "b:1"), ("b:1", "a:1"), ("a:1", "b:1")),
            (("a:1", "b:1"), ("b:1", "x:1"), ("a:1", "x:1")),
            (("a:1", "b:1", "c:1"), ("c:1", "x:1", "x:1"), ("a:1", "x:1", "c:1")),
        ],
    )
    def test_nobody_takes_the_place_of_another(
        self, answered: tuple[str, ...], called: tuple[str, ...], shown: tuple[str, ...]
    ) -> None:
        # One nsqd that calls itself by the address of another one hid it.
        described = [
            (address, Node(name.partition(":")[0], 1, 2))
            for address, name in zip(answered, called, strict=True)
        ]
        assert tuple(node.http_address for node in tell_apart(described)) == shown

    @pytest.mark.parametrize(
        ("older", "newer"),
        [
            ("1.9.0", "1.10.0"),
            ("1.3.0-alpha", "1.3.0"),
            ("1.3.0-alpha.1", "1.3.0-alpha.2"),
            ("1.3.0-alpha.9", "1.3.0-alpha.10"),
            ("1.3.0-1", "1.3.0-alpha"),
            ("1.3.0-alpha", "1.3.0-alpha.1"),
            ("nonsense", "0.0.1"),
            ("01.5.0", "0.0.1"),
        ],
    )
    def test_versions_are_ordered(self, older: str, newer: str) -> None:
        for order in ((older, newer), (newer, older)):
            nodes = merge_nodes([[self.node(1, order[0]), self.node(2, order[1])]])
            assert [node.version for node in nodes if node.out_of_date] == [older]

    def test_nodes_of_equal_versions_are_up_to_date(self) -> None:
        nodes = merge_nodes([[self.node(1, "1.3.0+build1"), self.node(2, "1.3.0")]])
        assert not any(node.out_of_date for node in nodes)
        assert merge_nodes([]) == []
