"""Images from Graphite, for clusters whose daemons send statsd metrics there: the names of the series, and the URLs.

A name is the statsd prefix with the node in it (`*` for all), then `topic.T.KEY`, `topic.T.channel.C.KEY` or `mem.KEY`,
sanitised as statsd does it, all of it in the format of a counter or a gauge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlencode, urlsplit

from attrs import define

from nsqadmin.options import AdminOptions
from nsqadmin.pages.charts import Choice
from nsqadmin.pages.page_request import PageRequest
from nsqkit.redact import without_user
from nsqkit.service.statsd_prefix import expand_prefix

__all__ = [
    "Graph",
    "GraphitePanel",
    "channel_graphs",
    "graphite_origin",
    "graphite_panel",
    "node_graphs",
    "topic_graphs",
]

TIME_RANGES = ("1h", "2h", "12h", "24h", "48h", "168h", "off")
DEFAULT = "2h"
_SIZE = {"width": "560", "height": "220"}
_LOOK = {"bgcolor": "00000000", "fgcolor": "808890", "fontSize": "9", "hideGrid": "false", "yMin": "0"}


@define(frozen=True)
class Graph:
    """One image with some series."""

    title: str
    keys: Sequence[tuple[str, str, bool]]
    """For each series its label, its name without prefix and format, and whether it is a counter (else a gauge)."""
    node: str = "*"


@define(frozen=True)
class Image:
    """One image on a page."""

    title: str
    address: str


@define(frozen=True)
class GraphitePanel:
    """The section of a page with the images."""

    time_ranges: list[Choice]
    images: list[Image]


def topic_graphs(topic: str) -> list[Graph]:
    """For a topic, over all nodes."""
    base = f"topic.{_sanitise(topic)}"
    return [
        Graph("Messages published", [("messages", f"{base}.message_count", True)]),
        Graph("Depth", [("depth", f"{base}.depth", False), ("on disk", f"{base}.backend_depth", False)]),
    ]


def channel_graphs(topic: str, channel: str) -> list[Graph]:
    """For a channel, over all nodes."""
    base = f"topic.{_sanitise(topic)}.channel.{_sanitise(channel)}"
    waiting = ("depth", "in_flight_count", "deferred_count")
    counted = ("message_count", "requeue_count", "timeout_count")
    return [
        Graph("Messages, requeued, timed out", [(_label(key), f"{base}.{key}", True) for key in counted]),
        Graph("Depth, in flight, deferred", [(_label(key), f"{base}.{key}", False) for key in waiting]),
        Graph("Consumers", [("consumers", f"{base}.clients", False)]),
    ]


def node_graphs(address: str) -> list[Graph]:
    """For the memory of one node."""
    sizes = ("heap_in_use_bytes", "heap_idle_bytes", "heap_released_bytes", "next_gc_bytes")
    pauses = ("gc_pause_usec_95", "gc_pause_usec_99", "gc_pause_usec_100")
    return [
        Graph("Memory", [(_label(key), f"mem.{key}", False) for key in sizes], address),
        Graph("Objects", [("objects", "mem.heap_objects", False)], address),
        Graph(
            "Pauses of the garbage collector", [(_label(key), f"mem.{key}", False) for key in pauses], address
        ),
        Graph("Garbage collections", [("runs", "mem.gc_runs", True)], address),
    ]


def graphite_panel(request: PageRequest, graphs: Iterable[Graph]) -> GraphitePanel | None:
    """The section of a page; None without `--graphite-url`. The time range is the parameter `t`."""
    options = request.console.options
    # Graphite behind /render shows any topic, so it is not for users who are limited to some.
    if not options.graphite_url or (options.proxy_graphite and not request.identity.topics.are_all):
        return None
    selected = request.query.get("t", "")
    selected = selected if selected in TIME_RANGES else DEFAULT
    choices = [Choice(each, each, request.link_with(t=each), each == selected) for each in TIME_RANGES]
    if selected == "off":
        return GraphitePanel(choices, [])
    images = [Image(graph.title, _address(request, options, graph, selected)) for graph in graphs]
    return GraphitePanel(choices, images)


def graphite_origin(options: AdminOptions) -> str:
    """The origin of the images, for the content security policy; empty if it is this console's, or there are none."""
    if not options.graphite_url or options.proxy_graphite:
        return ""
    parts = urlsplit(without_user(options.graphite_url))
    return f"{parts.scheme}://{parts.netloc}"


def _address(request: PageRequest, options: AdminOptions, graph: Graph, time_range: str) -> str:
    base = (
        request.console.base_path
        if options.proxy_graphite
        else without_user(options.graphite_url).rstrip("/")
    )
    query = [("target", _target(options, graph.node, *key)) for key in graph.keys]
    query += [("from", f"-{time_range}"), ("until", "-1min"), *_SIZE.items(), *_LOOK.items()]
    return f"{base}/render?{urlencode(query)}"


def _target(options: AdminOptions, node: str, label: str, key: str, counter: bool) -> str:
    prefix = expand_prefix(options.statsd_prefix, node)
    template = options.statsd_counter_format if counter else options.statsd_gauge_format
    return f'alias(sumSeries({template.replace("%s", prefix + key)}),"{label}")'


def _sanitise(name: str) -> str:
    """A name as statsd stores it."""
    return re.sub(r"[^a-zA-Z0-9\-_.]", "", re.sub(r"\s+", "_", name).replace("/", "-"))


def _label(key: str) -> str:
    return key.removesuffix("_count").removesuffix("_bytes").replace("_", " ")
