"""Settings, and how the tools' texts become settings."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import get_type_hints

import attrs
import pytest

from nsqkit.client import ClientOptions, OptionChanges, parse_client_option

DOCUMENTED = {
    "dial_timeout": 1.0,
    "read_timeout": 60.0,
    "lookupd_poll_interval": 60.0,
    "lookupd_poll_jitter": 0.3,
    "lookupd_poll_timeout": 60.0,
    "max_requeue_delay": 900.0,
    "backoff_strategy": "exponential",
    "max_attempts": 5,
    "low_rdy_idle_timeout": 10.0,
    "low_rdy_timeout": 30.0,
    "rdy_redistribute_interval": 5.0,
    "heartbeat_interval": 30.0,
    "sample_rate": 0,
    "output_buffer_size": 16384,
    "output_buffer_timeout": 0.25,
    "max_in_flight": 1,
    "msg_timeout": 0.0,
    "max_msg_size": 0,
    "auth_secret": "",
    "skip_lookupd_authorization": True,
    "topology_region": "",
    "topology_zone": "",
    "local_addr": "",
    "tls_v1": False,
    "tls_root_ca_file": "",
    "tls_insecure_skip_verify": False,
    "tls_cert": "",
    "tls_key": "",
    "snappy": False,
    "deflate": False,
    "deflate_level": 6,
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_defaults_are_those_of_other_libraries(name: str) -> None:
    """Same names, same values."""
    assert getattr(ClientOptions(), name) == DOCUMENTED[name]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("max_in_flight,200", "max_in_flight", 200),
        ("dial_timeout,2s", "dial_timeout", 2.0),
        ("dial_timeout,250", "dial_timeout", 0.25),
        ("max_backoff_duration,1m30s", "max_backoff_duration", 90.0),
        ("heartbeat_interval,-1", "heartbeat_interval", -0.001),
        ("lookupd_poll_jitter,0.5", "lookupd_poll_jitter", 0.5),
        ("client_id,a,b", "client_id", "a,b"),
        ("backoff_strategy,full_jitter", "backoff_strategy", "full_jitter"),
        ("skip_lookupd_authorization,false", "skip_lookupd_authorization", False),
        ("auto_touch", "auto_touch", True),
        ("max-attempts,0", "max_attempts", 0),
        ("tls_v1,true", "tls_v1", True),
        ("tls-root-ca-file,/ca.pem", "tls_root_ca_file", "/ca.pem"),
        ("tls_min_version,tls1.3", "tls_min_version", "tls1.3"),
        ("snappy", "snappy", True),
        ("deflate_level,9", "deflate_level", 9),
        ("local_addr,", "local_addr", ""),
        ("local_addr,127.0.0.1", "local_addr", "127.0.0.1"),
        ("local_addr,127.0.0.1:0", "local_addr", "127.0.0.1"),
        ("local_addr,eth0.example.org:0", "local_addr", "eth0.example.org"),
        ("local_addr,::1", "local_addr", "::1"),
        ("local_addr,[fe80::1%eth0]:0", "local_addr", "fe80::1%eth0"),
    ],
)
def test_options_are_read_from_text(text: str, name: str, value: object) -> None:
    """Go's durations or milliseconds."""
    assert getattr(parse_client_option(text), name) == value


def test_a_local_address_is_refused_where_it_is_set() -> None:
    """Not at each try to connect."""
    with pytest.raises(ValueError, match="a local address is host or host:0, not 'no/address'"):
        ClientOptions(local_addr="no/address")


def test_options_add_up() -> None:
    """One after the other."""
    options = parse_client_option("max_in_flight,7", parse_client_option("sample_rate,50"))
    assert (options.max_in_flight, options.sample_rate) == (7, 50)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense,1",
        "max_in_flight",
        "max_in_flight,-1",
        "max_in_flight,x",
        "max_in_flight,1.5",
        "dial_timeout,0",
        "sample_rate,100",
        "read_timeout,6m",
        "read_timeout,10s",
        "backoff_strategy,linear",
        "auto_touch,perhaps",
        "lookupd_poll_jitter,2",
        "lookupd_poll_jitter,nan",
        "tls_v1,perhaps",
        "tls_min_version,ssl3.0",
        "deflate_level,0",
        "deflate_level,10",
        "heartbeat_interval,2m",
        "local_addr,no/address",
        "local_addr,127.0.0.1:",
        "local_addr,127.0.0.1:4150",
        "local_addr,:0",
        "local_addr,::1:0:",
        "local_addr,[::1",
        "local_addr,[::x]:0",
    ],
)
def test_bad_options_are_refused(text: str) -> None:
    """Unknown names, wrong types, and values out of range."""
    with pytest.raises(ValueError):
        parse_client_option(text)


def test_there_is_one_compression_or_none() -> None:
    """nsqd would refuse both."""
    with pytest.raises(ValueError, match="not both"):
        parse_client_option("deflate,true", parse_client_option("snappy,true"))


def test_the_secret_is_not_shown() -> None:
    """In no log line."""
    assert "sesame" not in repr(ClientOptions(auth_secret="sesame"))


@pytest.mark.parametrize("field", [field.name for field in attrs.fields(ClientOptions)])
def test_every_option_is_documented(field: str) -> None:
    """In the table of docs/client.md."""
    assert f"`{field}`" in (Path(__file__).parents[3] / "docs" / "client.md").read_text()


def test_keyword_arguments_are_the_options() -> None:
    """Those that type checkers know, with their types."""
    assert get_type_hints(OptionChanges) == {
        field.name: get_type_hints(ClientOptions)[field.name] for field in attrs.fields(ClientOptions)
    }


@pytest.mark.parametrize("missing", ["cramjam", "crc32c"])
def test_snappy_without_its_packages(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name)
    )
    with pytest.raises(ValueError, match=r"pip install 'nsqkit\[compression\]'"):
        ClientOptions(snappy=True)
    ClientOptions(deflate=True)
