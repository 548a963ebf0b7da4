"""The HTTP API of nsqlookupd: look-ups for consumers, the nodes for consoles, and what an operator may change."""

from nsqlookupd.http.api import make_router, make_server

__all__ = ["make_router", "make_server"]
