"""Code shared by the tools: flags of clients and their checks, signals, exit codes.

Rules:

- The exit code is 2 after an error on the command line, 1 for invalid values and failures at run time, each with one
  line on stderr; 0 after an orderly end.
- The first SIGINT or SIGTERM requests an orderly stop; a second one, or a timeout, aborts it.
- A tool keeps messages: NSQ's own tools drop a message that was delivered more than 5 times (`max_attempts`), these
  handle it as any other.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, Any, ClassVar, Final, NoReturn, TypeAlias, TypeVar

import attrs
import trio

from nsqkit.access import TokenFileError
from nsqkit.access.own_token import read_own_token
from nsqkit.client import Address, ClientOptions, parse_client_option
from nsqkit.discovery import registry_url
from nsqkit.logging import get_logger, stamped_line
from nsqkit.options import STRINGS, FilePath, Group, OptionError, load, option
from nsqkit.version import VERSION, version_line
from nsqkit.wire import is_valid_name

__all__ = [
    "WHERE_FROM",
    "Channel",
    "ClientOptionTexts",
    "ConsumerFlags",
    "Fatal",
    "HostPort",
    "Topic",
    "access_token",
    "check_names",
    "check_nsqd_addresses",
    "check_positive",
    "check_sources",
    "client_options",
    "consumer_options",
    "handle_signals",
    "read_flags",
    "refuse",
    "run",
    "token_options",
    "write_all",
]

_log = get_logger(__name__)

# Any value of a single option is valid together with these. So the order of the flags does not matter: options are
# checked against each other only when all are known.
_CONSUMER_DEFAULTS: Final = (
    "max_attempts,0",
    "default_requeue_delay,90s",
    "backoff_multiplier,1s",
    "max_backoff_duration,2m",
)
_NEUTRAL: Final = ClientOptions(read_timeout=300.0, heartbeat_interval=-1)


class Fatal(Exception):
    """An error that ends the tool; the text is for its user."""


# --- flags --------------------------------------------------------------------------------------------------


def _check_client_option(text: str) -> list[str]:
    parse_client_option(text, _NEUTRAL)
    return [text]


ClientOptionTexts: TypeAlias = Annotated[
    list[str], attrs.evolve(STRINGS, from_text=_check_client_option, placeholder="NAME,VALUE")
]
"""For `--consumer-opt` and `--producer-opt`: a list of texts, each of them checked."""
HostPort: TypeAlias = Annotated[str, "HOST:PORT"]
Topic: TypeAlias = Annotated[str, "TOPIC"]
Channel: TypeAlias = Annotated[str, "CHANNEL"]
WHERE_FROM: Final = Group("Where from")


@attrs.define(kw_only=True)
class ConsumerFlags:
    """The flags of every tool that consumes."""

    SOURCE: ClassVar = WHERE_FROM

    nsqd_tcp_addresses: list[HostPort] = option(
        flag="nsqd-tcp-address",
        help="TCP address of an nsqd to consume from. If it cannot be reached, connecting is tried again "
        "until it can.",
    )
    lookupd_http_addresses: list[HostPort] = option(
        flag="lookupd-http-address",
        help="HTTP address of an nsqlookupd, to consume from all nsqds that have the topic, instead of "
        "--nsqd-tcp-address. With several, the nsqds that any of them knows.",
    )
    consumer_opts: ClientOptionTexts = option(
        flag="consumer-opt",
        help="Option of the client library by its go-nsq name: --consumer-opt=msg_timeout,2m. A name alone "
        "means true. One default differs from go-nsq's: max_attempts is 0, so that no message is ever given "
        "up. With a limit, a message above it is logged and delivered again after max_requeue_delay; "
        "nothing is dropped.",
    )

    access_token_file: FilePath = option(
        "",
        help="File with the token to show to nsqds and nsqlookupds. (With --consumer-opt=auth_secret,... every user of "
        "this machine could see it.)",
    )


FlagsT = TypeVar("FlagsT", bound=attrs.AttrsInstance)


def read_flags(cls: type[FlagsT], *, program: str, synopsis: str, example: str) -> FlagsT:
    """The flags of this process. Exits after `--help`, `--version` or an error. Values are not validated."""
    return load(
        cls,
        sys.argv[1:],
        program=program,
        version=version_line(program, built_with=False),
        synopsis=synopsis,
        example=example,
    )


def check_sources(
    nsqds: Sequence[str], registries: Sequence[str], nsqd_flag: str = "nsqd-tcp-address"
) -> None:
    """`OptionError` unless there are addresses of exactly one kind."""
    if not nsqds and not registries:
        raise OptionError(f"--{nsqd_flag} or --lookupd-http-address required")
    if nsqds and registries:
        raise OptionError(f"use --{nsqd_flag} or --lookupd-http-address not both")
    check_nsqd_addresses(nsqds, nsqd_flag)
    for address in registries:
        try:
            registry_url(address, "lookup")
        except ValueError as error:
            raise OptionError(f"--lookupd-http-address: {error}") from None


def check_nsqd_addresses(addresses: Iterable[str], flag: str = "nsqd-tcp-address") -> None:
    """`OptionError` for an address that is not host and port."""
    for address in addresses:
        try:
            Address.parse(address)
        except ValueError as error:
            raise OptionError(f"--{flag}: {error}") from None


def check_names(flag: str, names: Iterable[str]) -> None:
    """`OptionError` for an invalid name of a topic or channel."""
    for name in names:
        if not is_valid_name(name):
            raise OptionError(f"--{flag} is invalid: {name!r}")


def check_positive(flags: attrs.AttrsInstance, *names: str) -> None:
    """`OptionError`, with the original's text, if one of these flags is 0 or negative."""
    for name in names:
        if getattr(flags, name.replace("-", "_")) <= 0:
            raise OptionError(f"--{name} should be positive")


def consumer_options(program: str, flags: ConsumerFlags, *, max_in_flight: int) -> ClientOptions:
    """The options of a tool's consumers: as `client_options`, with `max_attempts` 0, so that no message is dropped.

    A failure of a tool means that the other side is down: delays and backoff are those of the original.
    """
    texts = [*_CONSUMER_DEFAULTS, *token_options(flags.access_token_file), *flags.consumer_opts]
    options = client_options(program, texts, max_in_flight=max_in_flight)
    if options.heartbeat_interval <= 0:
        raise OptionError("a consumer cannot do without heartbeats")
    return options


def client_options(program: str, texts: Iterable[str], **fixed: Any) -> ClientOptions:
    """The options of the client library for a tool.

    `texts`: those of `--consumer-opt` or `--producer-opt`, preceded by defaults of the tool in the same form. `fixed`
    and the user agent override them. `OptionError` for invalid values.
    """
    changes: dict[str, Any] = {}
    try:
        for text in texts:
            name = text.partition(",")[0].strip().replace("-", "_")
            changes[name] = getattr(parse_client_option(text, _NEUTRAL), name)
        changes.update(fixed, user_agent=f"{program}/{VERSION} nsqkit/{VERSION}")
        return ClientOptions(**changes)
    except ValueError as error:
        raise OptionError(str(error)) from None


def token_options(path: str, flag: str = "access-token-file") -> list[str]:
    """The options of the client library that have it show the token in this file, if there is one. `OptionError`."""
    return [f"auth_secret,{access_token(path, flag)}"] if path else []


def access_token(path: str, flag: str = "access-token-file") -> str:
    """The token in the file that a flag names. `OptionError`."""
    try:
        return read_own_token(path)
    except TokenFileError as error:
        raise OptionError(f"--{flag}: {error}") from None


# --- running ------------------------------------------------------------------------------------------------


def refuse(reason: object) -> NoReturn:
    """Exit with code 1 and one line on stderr, before the log is configured."""
    sys.stderr.write(stamped_line(str(reason)))
    sys.exit(1)


def run(main: Callable[[], Awaitable[None]], report: Callable[[str], object] | None = None) -> None:
    """Run a tool on trio. A `Fatal`, also in nested groups, ends the program with code 1.

    Its text is logged, or passed to `report`.
    """
    reason: Fatal | None = None
    try:
        trio.run(main)
    except* Fatal as group:
        reason = _first(group)
    if reason is not None:
        if report is None:
            _log.critical("%s", reason)
        else:
            report(str(reason))
        sys.exit(1)


def _first(group: BaseExceptionGroup[Fatal]) -> Fatal:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("a group is never empty")


def write_all(descriptor: int, data: bytes) -> None:
    """Write all data. It may block: for a worker thread, or for a descriptor that is known to be writable."""
    while data:
        data = data[os.write(descriptor, data) :]


async def handle_signals(
    stop: Callable[[], object],
    abort: Callable[[], object],
    hang_up: Callable[[], object] | None = None,
    *,
    grace: float = math.inf,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call `stop` at the first SIGINT or SIGTERM, `abort` at a second one or `grace` seconds later.

    `hang_up` is called at every SIGHUP; without it, the handling of SIGHUP is not changed. To be started with
    `nursery.start`, so that signals are caught from then on.
    """
    wanted = [signal.SIGINT, signal.SIGTERM] + [signal.SIGHUP] * (hang_up is not None)
    stopping = False
    with trio.open_signal_receiver(*wanted) as arrivals, trio.CancelScope() as scope:
        task_status.started()
        async for number in arrivals:
            if number == signal.SIGHUP and hang_up is not None:
                hang_up()
            elif stopping:
                break
            else:
                stopping = True
                stop()
                scope.deadline = trio.current_time() + grace
    abort()
