"""One GET of `/channels` from a registry."""

from __future__ import annotations

from nsqd.lookup.protocol import HttpAddress
from nsqkit.fetch import Fetcher

__all__ = ["HttpFetch"]


class HttpFetch:
    """Fetches; of the type `Fetch` that `KnownChannels` asks for."""

    def __init__(self, fetch: Fetcher) -> None:
        self._fetch = fetch

    async def __call__(self, scheme: str, registry: HttpAddress, topic: str) -> tuple[int, bytes]:
        """Status and body. Raises what `Fetcher` raises."""
        await self._fetch.load()
        import httpx

        # Put together from its parts, so that no host that a registry tells of itself can be more than a host.
        url = httpx.URL(
            scheme=scheme, host=registry.host, port=registry.port, path="/channels", params={"topic": topic}
        )
        return await self._fetch(url)
