"""The settings of consumers and producers.

Times are seconds (int or float). As text, in `parse_client_option`, they are Go's durations (`90s`, `250ms`) or whole
milliseconds, as in the values of `--consumer-opt` and `--producer-opt` of NSQ's tools.
"""

from __future__ import annotations

import importlib.util
import math
import socket
import ssl
from collections.abc import Callable, Collection
from typing import Any, Final, TypedDict

import attrs

from nsqkit.client.address import local_host
from nsqkit.options import SECOND, TLS_VERSIONS, did_you_mean, parse_duration
from nsqkit.tls import client_context
from nsqkit.version import VERSION

__all__ = ["BACKOFF_STRATEGIES", "ClientOptions", "OptionChanges", "parse_client_option"]

BACKOFF_STRATEGIES: Final = ("exponential", "full_jitter")
MAX_IN_FLIGHT: Final = 1_000_000
MAX_ATTEMPTS: Final = 0xFFFF
LARGEST_FRAME: Final = 256 * 1024 * 1024
"""Bytes: the bound on one frame where `max_msg_size` sets none."""

_KIND = "nsqkit.client.option"


def _seconds_from_text(text: str) -> float:
    if text.lstrip("-").isdecimal():
        return int(text) / 1000
    return parse_duration(text) / SECOND


def _bool_from_text(text: str) -> bool:
    words = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
    if text.lower() not in words:
        raise ValueError(f"neither true nor false: {text!r}")
    return words[text.lower()]


def _size_from_text(text: str) -> int:
    return int(text)


def _between(low: float, high: float, *also: float) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{field.name} is a number{_unit(field)}, not {value!r}{_meant(field, value)}")
        if value not in also and not low <= value <= high:
            nearest = min((low, high, *also), key=lambda right: abs(right - value))
            raise ValueError(
                f"{field.name} must be between {low:.15g} and {high:.15g}{_unit(field)}, not {value:.15g}"
                f" (the nearest is {nearest:.15g})"
            )

    return check


def _is_whole(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        meant = f" (did you mean {value:.0f}?)" if isinstance(value, float) and value.is_integer() else ""
        raise ValueError(f"{field.name} is a whole number, not {value!r}{meant or _meant(field, value)}")


def _is_text(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{field.name} is text, not {value!r}")


def _is_flag(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{field.name} is True or False, not {value!r}{_meant(field, value)}")


def _unit(field: attrs.Attribute[Any]) -> str:
    return " of seconds" if field.metadata.get(_KIND) is _seconds_from_text else ""


def _meant(field: attrs.Attribute[Any], value: Any) -> str:
    """A hint for a value that was given as text, as on a command line."""
    try:
        parsed = field.metadata[_KIND](value)
    except (ValueError, TypeError, AttributeError):
        return ""
    return f" (did you mean {parsed:g}?)" if isinstance(parsed, float) else f" (did you mean {parsed!r}?)"


def _one_of(words: Collection[str]) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if value not in words:
            hint = did_you_mean(str(value), words)
            raise ValueError(f"{field.name} must be one of {', '.join(words)}, not {value!r}{hint}")

    return check


def _seconds(default: float, low: float, high: float, *also: float) -> Any:
    return attrs.field(
        default=default, validator=_between(low, high, *also), metadata={_KIND: _seconds_from_text}
    )


def _whole(default: int, low: int, high: float, *also: int) -> Any:
    validators = [_is_whole, _between(low, high, *also)]
    return attrs.field(default=default, validator=validators, metadata={_KIND: _size_from_text})


def _fraction(default: float) -> Any:
    return attrs.field(default=default, validator=_between(0, 1), metadata={_KIND: float})


def _text(default: str = "", **arguments: Any) -> Any:
    if "factory" not in arguments:
        arguments["default"] = default
    arguments.setdefault("validator", _is_text)
    return attrs.field(metadata={_KIND: str}, **arguments)


def _flag(default: bool) -> Any:
    return attrs.field(default=default, validator=_is_flag, metadata={_KIND: _bool_from_text})


def _snappy_is_installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("cramjam", "crc32c"))


def _short_host_name() -> str:
    return socket.gethostname().split(".", 1)[0]


@attrs.frozen(kw_only=True)
class ClientOptions:
    """Settings of a consumer or a producer, checked: `ValueError` for a value out of its range.

    Instances do not change: `attrs.evolve(options, max_in_flight=100)` makes another.
    """

    # The connection.
    dial_timeout: float = _seconds(1.0, 0.001, 300)
    """For each step from a host name to an identified connection."""
    read_timeout: float = _seconds(60.0, 0.1, 300)
    """A connection on which nothing arrives for this time, not even a heartbeat, is closed."""
    write_timeout: float = _seconds(5.0, 0.1, 300)
    """A send that takes longer ends the connection. (go-nsq: 1 s, too short for a broker that waits for its disk.)"""
    local_addr: str = _text(converter=local_host)
    """The local address to connect from: `host`, or `host:0` as in go-nsq."""
    client_id: str = _text(factory=_short_host_name)
    hostname: str = _text(factory=socket.gethostname)
    user_agent: str = _text(f"nsqkit/{VERSION}")
    topology_region: str = _text()
    topology_zone: str = _text()
    heartbeat_interval: float = _seconds(30.0, 1, 300, -1, -0.001)
    """Time between nsqd's heartbeats; at most `read_timeout`. -1: none (producers only)."""
    sample_rate: int = _whole(0, 0, 99)
    """Percentage of the channel's messages to receive; **nsqd drops the others**. 0: all."""
    output_buffer_size: int = _whole(16384, 64, 1 << 30, -1, 0)
    """Bytes that nsqd buffers before it sends."""
    output_buffer_timeout: float = _seconds(0.25, 0.001, 300, -1, -0.001, 0)
    """How long nsqd may buffer a message to send it together with others."""
    msg_timeout: float = _seconds(0.0, 1, 86400, 0)
    """How long nsqd waits for an answer before it delivers a message again. 0: nsqd's own setting (60 s)."""
    max_msg_size: int = _whole(0, 0, LARGEST_FRAME)
    """Bytes; a larger frame closes the connection. 0: 256 MiB."""
    auth_secret: str = _text(repr=False)
    """Sent with AUTH when nsqd asks for it."""
    reconnect_delay: float = _seconds(0.1, 0.001, 60)
    """Before the second attempt to connect; doubled with each further one."""
    max_reconnect_delay: float = _seconds(15.0, 0.001, 3600)

    # TLS and compression.
    tls_v1: bool = _flag(False)
    """Require TLS of nsqds. The other `tls_` options are for these connections, and for registries at https URLs."""
    tls_root_ca_file: str = _text()
    """File (PEM) with the certificate authorities to trust. Empty: those of the system."""
    tls_insecure_skip_verify: bool = _flag(False)
    """Do not verify the certificate of nsqd. For tests."""
    tls_cert: str = _text()
    """Client certificate file (PEM) with its chain, for an nsqd that asks for one."""
    tls_key: str = _text()
    """Private key file (PEM) of the client certificate."""
    tls_min_version: str = _text("tls1.2", validator=_one_of(TLS_VERSIONS))
    """`tls1.0` to `tls1.3`; below `tls1.2` counts as `tls1.2`."""
    snappy: bool = _flag(False)
    """Compress with snappy if nsqd allows it. Not together with deflate."""
    deflate: bool = _flag(False)
    """Compress with deflate if nsqd allows it."""
    deflate_level: int = _whole(6, 1, 9)
    """1 (fast) to 9 (small). nsqd may limit it."""

    # The registries.
    lookupd_poll_interval: float = _seconds(60.0, 0.01, 300)
    lookupd_poll_jitter: float = _fraction(0.3)
    """The first interval is longer by a random part of it up to this one, so that not all clients ask at once."""
    lookupd_poll_timeout: float = _seconds(60.0, 0.001, 300)
    skip_lookupd_authorization: bool = _flag(True)
    """Despite its name, which is go-nsq's: True sends `auth_secret` to the registries, as a bearer token."""

    # Consuming.
    max_in_flight: int = _whole(1, 0, MAX_IN_FLIGHT)
    """Most unanswered messages at a time, over all connections. 0: pause."""
    max_attempts: int = _whole(5, 0, MAX_ATTEMPTS)
    """A message delivered more often than this goes to `on_giving_up`, not to the handler. 0: no limit."""
    default_requeue_delay: float = _seconds(0.5, 0, 3600)
    """A failed message waits for this, multiplied by its attempts, up to `max_requeue_delay`. (go-nsq: 90 s.)"""
    max_requeue_delay: float = _seconds(900.0, 0, 3600)
    backoff_strategy: str = _text("exponential", validator=_one_of(BACKOFF_STRATEGIES))
    """`exponential`: the multiplier times 2 to the level. `full_jitter`: random, between 0 and that."""
    backoff_multiplier: float = _seconds(0.1, 0, 3600)
    max_backoff_duration: float = _seconds(1.0, 0, 3600)
    """The longest pause of a backoff; 0: no backoff. (go-nsq: 120 s, and a multiplier of 1 s: a few messages that
    always fail would stop all others for minutes.)"""
    low_rdy_idle_timeout: float = _seconds(10.0, 1, 300)
    """With more connections than `max_in_flight`: time without a message after which a connection loses its turn."""
    low_rdy_timeout: float = _seconds(30.0, 1, 300)
    """With more connections than `max_in_flight`: longest turn of a connection."""
    rdy_redistribute_interval: float = _seconds(5.0, 0.001, 5)
    auto_touch: bool = _flag(True)
    """Touch an unanswered message at half of its timeout, up to nsqd's `--max-msg-timeout`."""
    stop_timeout: float = _seconds(30.0, 0, 3600)
    """How long a stop waits for running handlers."""
    close_timeout: float = _seconds(2.0, 0.001, 60)
    """How long closing a connection may take."""

    # Publishing.
    publish_timeout: float = _seconds(30.0, 0.001, 3600)
    """A publish that is not answered within this time fails."""
    max_publishes_in_air: int = _whole(10_000, 1, MAX_IN_FLIGHT)
    """Most publishes without a response yet; further ones wait before they are sent."""
    max_bytes_in_air: int = _whole(16 * 1024 * 1024, 1, LARGEST_FRAME)
    """Most bytes of such publishes. A larger one is sent alone."""
    at_least_once: bool = _flag(True)
    """Publish again what was sent but not answered when a connection broke; see `Producer`."""

    def __attrs_post_init__(self) -> None:
        if self.snappy and self.deflate:
            raise ValueError("snappy or deflate, not both")
        if self.snappy and not _snappy_is_installed():
            raise ValueError(
                "snappy needs packages that are not installed: pip install 'nsqkit[compression]'"
            )
        if self.heartbeat_interval > self.read_timeout:
            raise ValueError(
                f"heartbeat_interval ({self.heartbeat_interval:g} s) is above read_timeout ({self.read_timeout:g} s)"
            )

    def identify_fields(self) -> dict[str, Any]:
        """The body of IDENTIFY; times in milliseconds."""
        return {
            "client_id": self.client_id,
            "hostname": self.hostname,
            "user_agent": self.user_agent,
            "feature_negotiation": True,
            "heartbeat_interval": _ms_or_off(self.heartbeat_interval),
            "sample_rate": self.sample_rate,
            "output_buffer_size": self.output_buffer_size,
            "output_buffer_timeout": _ms_or_off(self.output_buffer_timeout),
            "msg_timeout": _ms_or_off(self.msg_timeout),
            "tls_v1": self.tls_v1,
            "snappy": self.snappy,
            "deflate": self.deflate,
            "deflate_level": self.deflate_level,
            "topology_region": self.topology_region,
            "topology_zone": self.topology_zone,
        }

    def tls_context(self) -> ssl.SSLContext:
        """Made of the files anew. `TlsConfigError` for one that cannot be used."""
        return client_context(
            root_ca_file=self.tls_root_ca_file,
            min_version=TLS_VERSIONS[self.tls_min_version],
            cert_file=self.tls_cert,
            key_file=self.tls_key,
            verify=not self.tls_insecure_skip_verify,
        )

    def requeue_delay(self, attempts: int) -> float:
        """Seconds that a message with this number of attempts waits if no other delay is asked for."""
        return min(self.default_requeue_delay * attempts, self.max_requeue_delay)

    def reconnect_delay_after(self, failures: int, chance: float) -> float:
        """Seconds before the next attempt after this many failures in a row; `chance` is in [0, 1)."""
        delay = self.reconnect_delay * 2.0 ** min(failures - 1, 30)
        return min(delay, self.max_reconnect_delay) * (0.75 + chance / 4)


class OptionChanges(TypedDict, total=False):
    """The fields of `ClientOptions` as keyword arguments, so that type checkers refuse a wrong name or type."""

    dial_timeout: float
    read_timeout: float
    write_timeout: float
    local_addr: str
    client_id: str
    hostname: str
    user_agent: str
    topology_region: str
    topology_zone: str
    heartbeat_interval: float
    sample_rate: int
    output_buffer_size: int
    output_buffer_timeout: float
    msg_timeout: float
    max_msg_size: int
    auth_secret: str
    reconnect_delay: float
    max_reconnect_delay: float
    tls_v1: bool
    tls_root_ca_file: str
    tls_insecure_skip_verify: bool
    tls_cert: str
    tls_key: str
    tls_min_version: str
    snappy: bool
    deflate: bool
    deflate_level: int
    lookupd_poll_interval: float
    lookupd_poll_jitter: float
    lookupd_poll_timeout: float
    skip_lookupd_authorization: bool
    max_in_flight: int
    max_attempts: int
    default_requeue_delay: float
    max_requeue_delay: float
    backoff_strategy: str
    backoff_multiplier: float
    max_backoff_duration: float
    low_rdy_idle_timeout: float
    low_rdy_timeout: float
    rdy_redistribute_interval: float
    auto_touch: bool
    stop_timeout: float
    close_timeout: float
    publish_timeout: float
    max_publishes_in_air: int
    max_bytes_in_air: int
    at_least_once: bool


def _ms_or_off(seconds: float) -> int:
    return -1 if seconds < 0 else math.ceil(seconds * 1000)


def parse_client_option(text: str, options: ClientOptions | None = None) -> ClientOptions:
    """The options with one of them changed, given as `name,value`; a name alone is true.

    The names are the fields of `ClientOptions`, which are go-nsq's. Raises `ValueError` for an unknown name or
    a bad value.

    >>> parse_client_option("max_in_flight,200").max_in_flight
    200
    >>> parse_client_option("default_requeue_delay,1m30s").default_requeue_delay
    90.0
    """
    name, comma, value = text.partition(",")
    name = name.strip().replace("-", "_")
    parse = _PARSERS.get(name)
    if parse is None:
        hint = did_you_mean(name, _PARSERS) or f" (known: {', '.join(_PARSERS)})"
        raise ValueError(f"unknown option {name!r}{hint}")
    try:
        parsed = parse(value.strip() if comma else "true")
        return attrs.evolve(options or ClientOptions(), **{name: parsed})
    except ValueError as error:
        raise ValueError(f"bad value for {name}: {error}") from None


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    field.name: field.metadata[_KIND] for field in attrs.fields(ClientOptions) if _KIND in field.metadata
}
