"""The HTTP API of nsqlookupd: look-ups for consumers, nodes for consoles, and changes by an operator."""

from nsqlookupd.http.api import make_router, make_server
from nsqlookupd.http.watches import Watches

__all__ = ["Watches", "make_router", "make_server"]
