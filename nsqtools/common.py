"""What the tools share: flags of clients and their checks, signals, and how a tool ends.

Rules:

- A mistake on the command line ends a tool with 2, values that it cannot run with and failures while it runs
  with 1, an orderly end with 0. Each with one line on stderr.
- The first SIGINT or SIGTERM asks for an orderly stop; a second one, or time, ends whatever that waits for.
- A tool keeps messages: where NSQ's own tools drop one that was delivered more than 5 times
  (`max_attempts`), these handle it like any other.
"""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NoReturn

import attrs
import trio

from nsqkit.client import Address, ClientOptions, parse_client_option
from nsqkit.discovery import registry_url
from nsqkit.logging import get_logger, stamped_line
from nsqkit.options import STRINGS, OptionError, option
from nsqkit.version import VERSION
from nsqkit.wire import is_valid_name

__all__ = [
    "CLIENT_OPTIONS",
    "ConsumerFlags",
    "Fatal",
    "check_names",
    "check_nsqd_addresses",
    "check_sources",
    "client_options",
    "handle_signals",
    "refuse",
    "run",
]

_log = get_logger(__name__)

# Any value of one option is looked at beside these, so that the order of the flags does not matter: the two
# are compared with each other only when all are known.
_NEUTRAL: Final = ClientOptions(read_timeout=300.0, heartbeat_interval=-1)


class Fatal(Exception):
    """The tool cannot go on; the text is for its user."""


# --- flags --------------------------------------------------------------------------------------------------


def _check_client_option(text: str) -> list[str]:
    parse_client_option(text, _NEUTRAL)
    return [text]


CLIENT_OPTIONS: Final = attrs.evolve(STRINGS, from_text=_check_client_option, placeholder="NAME,VALUE")
"""For `--consumer-opt` and `--producer-opt`: a list of texts, each of them checked."""


@attrs.define(kw_only=True)
class ConsumerFlags:
    """The flags of every tool that consumes."""

    nsqd_tcp_addresses: list[str] = option(
        kind=STRINGS,
        flag="nsqd-tcp-address",
        group="Where from",
        placeholder="HOST:PORT",
        help="An nsqd to consume from. It need not run yet: connecting is tried again until it does.",
    )
    lookupd_http_addresses: list[str] = option(
        kind=STRINGS,
        flag="lookupd-http-address",
        group="Where from",
        placeholder="HOST:PORT",
        help="An nsqlookupd to ask for the nsqds that have the topic, instead of --nsqd-tcp-address. All are "
        "asked, and what they say is put together.",
    )
    consumer_opts: list[str] = option(
        kind=CLIENT_OPTIONS,
        flag="consumer-opt",
        group="Where from",
        help="An option of the client library by its go-nsq name: --consumer-opt=msg_timeout,2m; a name alone "
        "means true. Unknown ones are errors. One default differs from go-nsq's: max_attempts is 0, so no "
        "message is ever given up. With a limit, what is above it is logged and comes again after "
        "max_requeue_delay; nothing is dropped.",
    )


def check_sources(flags: ConsumerFlags) -> None:
    """Refuse (`OptionError`) anything but addresses of exactly one kind."""
    if not flags.nsqd_tcp_addresses and not flags.lookupd_http_addresses:
        raise OptionError("--nsqd-tcp-address or --lookupd-http-address required")
    if flags.nsqd_tcp_addresses and flags.lookupd_http_addresses:
        raise OptionError("use --nsqd-tcp-address or --lookupd-http-address not both")
    check_nsqd_addresses(flags.nsqd_tcp_addresses)
    for address in flags.lookupd_http_addresses:
        try:
            registry_url(address, "lookup")
        except ValueError as error:
            raise OptionError(f"--lookupd-http-address: {error}") from None


def check_nsqd_addresses(addresses: Iterable[str]) -> None:
    """Refuse (`OptionError`) what is not host and port."""
    for address in addresses:
        try:
            Address.parse(address)
        except ValueError as error:
            raise OptionError(f"--nsqd-tcp-address: {error}") from None


def check_names(flag: str, names: Iterable[str]) -> None:
    """Refuse (`OptionError`) what is no name of a topic or channel."""
    for name in names:
        if not is_valid_name(name):
            raise OptionError(f"--{flag} is invalid: {name!r}")


def client_options(program: str, texts: Iterable[str], **fixed: Any) -> ClientOptions:
    """The options of the client library for a tool.

    `texts` are those of `--consumer-opt` or `--producer-opt`; defaults of the tool's own can be put before
    them as more texts. `fixed` and the user agent win over all. `OptionError` for values that do not fit.
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


# --- running ------------------------------------------------------------------------------------------------


def refuse(reason: object) -> NoReturn:
    """End the program before it has begun, with one line and exit code 1."""
    sys.stderr.write(stamped_line(str(reason)))
    sys.exit(1)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a tool on trio to its end. A `Fatal` in it, however deep, is logged and ends the program with 1."""
    reason: Fatal | None = None
    try:
        trio.run(main)
    except* Fatal as group:
        reason = _first(group)
    if reason is not None:
        _log.critical("%s", reason)
        sys.exit(1)


def _first(group: BaseExceptionGroup[Fatal]) -> Fatal:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("a group is never empty")


async def handle_signals(
    stop: Callable[[], object],
    leave: Callable[[], object],
    hang_up: Callable[[], object] | None = None,
    *,
    grace: float = math.inf,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call `stop` at the first SIGINT or SIGTERM, `leave` at a second one or `grace` seconds later.

    `hang_up` is called at every SIGHUP; without it, SIGHUP stays as it was. Start this with `nursery.start`:
    signals are caught from then on.
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
    leave()
