"""Parsing and joining `host:port`."""

from __future__ import annotations

__all__ = ["host_and_port", "join_host_port"]


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of `host:port` or `[::1]:port`; `ValueError` for anything else."""
    host, colon, port = address.rpartition(":")
    if not colon:
        raise ValueError("missing port in address")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("too many colons in address")
    if "/" in host or not host.isprintable() or any(c in host for c in " ?#@\\[]"):
        raise ValueError("no host name")
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535):
        raise ValueError(f"no port: {port!r}")
    return host, int(port)


def join_host_port(host: str, port: int) -> str:
    """`host:port`, with brackets round an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
