"""The HTTP addresses of the nsqds that have a topic, as registries tell them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nsqkit.discovery import Discovery, DiscoveryFailed
from nsqkit.http_client import HttpFailed
from nsqtools.fetch import Fetcher

__all__ = ["combined_error", "http_address", "looked_up_nsqds"]


async def looked_up_nsqds(fetcher: Fetcher, registries: Sequence[str], topic: str) -> list[str]:
    """The addresses, each once. `HttpFailed` if one of the registries does not answer, `DiscoveryFailed`."""
    # A new object each time, as it would use earlier results after a failure.
    discovery = Discovery(registries, timeout=fetcher.timeout_s, fetch=fetcher.fetch)
    try:
        nodes = await discovery.lookup(topic)
    except DiscoveryFailed:
        nodes = None
    if discovery.failures:
        raise combined_error("nsqlookupd", discovery.failures.values(), all_failed=nodes is None)
    return [http_address(node.broadcast_address, node.http_port) for node in nodes or ()]


def combined_error(kind: str, reasons: Iterable[str], *, all_failed: bool) -> HttpFailed:
    """One error for several daemons of this kind."""
    text = "; ".join(reasons)
    return HttpFailed(f"failed to query any {kind}: {text}" if all_failed else text)


def http_address(host: Any, port: Any) -> str:
    """`host:port`."""
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
