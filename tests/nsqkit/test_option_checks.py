"""Addresses in options: what is refused before a daemon starts, and in which words."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from nsqkit.options import (
    Address,
    OptionError,
    check_listen_addresses,
    check_target_addresses,
    option,
    parse,
)
from nsqkit.options.daemon import DaemonOptions


@attrs.define(kw_only=True)
class Options(DaemonOptions):
    tcp_address: Address = option("0.0.0.0:4150", help="")
    registries: list[Address] = option(flag="registry-address", help="")
    statsd: Address = option("", help="")


@pytest.mark.parametrize("address", ["4150", "localhost", "127.0.0.1", "::1", "a:b:1", "h:65536", ":99999"])
def test_no_socket_file_for_a_mistyped_address(address: str) -> None:
    with pytest.raises(OptionError, match="--tcp-address: '"):
        check_listen_addresses(Options(tcp_address=address), "tcp_address")


def test_port_alone_is_told_how_to_write_it() -> None:
    with pytest.raises(OptionError, match="for this port on all interfaces write :4150"):
        check_listen_addresses(Options(tcp_address="4150"), "tcp_address")


@pytest.mark.parametrize(
    "address", ["", ":4150", "h:0", "[::1]:80", "a:nsqd", "/run/a", "./a", "a.sock", "a:b/c", "x.socket"]
)
def test_addresses_to_listen_on(address: str) -> None:
    check_listen_addresses(Options(tcp_address=address), "tcp_address")


@pytest.mark.parametrize(
    "address", ["h", "4160", ":4160", "h:0", "h:65536", "h:x", "h:", "/run/a", "http://h:1"]
)
def test_addresses_that_nothing_can_connect_to(address: str) -> None:
    with pytest.raises(OptionError, match="is not host:port with a port from 1 to 65535"):
        check_target_addresses(Options(registries=["a:1", address]), "registries", "registry-address")
    with pytest.raises(OptionError, match="--statsd: "):
        check_target_addresses(Options(statsd=address), "statsd", "statsd")


def test_addresses_to_connect_to() -> None:
    check_target_addresses(Options(registries=["a:1", "[::1]:65535"]), "registries", "registry-address")
    check_target_addresses(Options(), "registries", "registry-address")
    check_target_addresses(Options(), "statsd", "statsd")


def test_file_and_key_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('tcp_address = "4150"\nregistries = ["h"]\n')
    options = parse(Options, [f"--config={path}"], program="x")
    with pytest.raises(OptionError, match=f"tcp_address in {path}"):
        check_listen_addresses(options, "tcp_address")
    with pytest.raises(OptionError, match=f"registries in {path}"):
        check_target_addresses(options, "registries", "registry-address")
