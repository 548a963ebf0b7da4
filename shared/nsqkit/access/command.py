"""The command `nsqd token`: make, list and revoke tokens, in the file that `--tokens-file` of the daemons names."""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from nsqkit.access.scopes import ScopeError, Scopes
from nsqkit.access.token_file import TokenFile, TokenFileError, add, remove
from nsqkit.access.tokens import Token, TokenError, checked_name, digest_of, new_secret, shown_time
from nsqkit.options import SECOND, parse_duration
from nsqkit.standard_streams import guard_standard_streams

__all__ = ["run_token_command"]

_DAYS: Final = re.compile(r"([0-9]{1,6})d")
_DAY_S: Final = 24 * 3600.0
_LAST: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()

_HELP: Final = """\
Tokens say who may do what. A client sends its token with AUTH (most libraries call it auth secret), or over HTTP in a
header: Authorization: Bearer TOKEN, or Basic with the token as password. The daemons know only hashes of tokens, from a
file that all of them can share, and read it again within a second of a change.

scopes:
  publish:TOPIC           publish to these topics
  consume:TOPIC/CHANNEL   consume from these channels
  read                    read names, figures and states
  operate                 read; create, pause, empty and delete, drain; and register at an nsqlookupd, as nsqds do
  admin                   everything
  In TOPIC and CHANNEL a * stands for any characters. Quote it, as the shell has its own use for it.

examples:
  nsqd token new --tokens-file=/etc/nsq/tokens --name=shop --scope='publish:orders.*' --expires=90d >shop.token
  nsqd token new --tokens-file=/etc/nsq/tokens --name=billing --scope='consume:orders.*/billing'
  nsqd token list --tokens-file=/etc/nsq/tokens
  nsqd token revoke --tokens-file=/etc/nsq/tokens shop

  nsqd --tokens-file=/etc/nsq/tokens --anonymous=none ...
  curl -H "Authorization: Bearer $(cat shop.token)" -d hello 'http://127.0.0.1:4151/pub?topic=orders.new'

To replace a token: make another one under a new name, give it to the client, revoke the old one.
exit status: 0 done, 1 not done, 2 a mistake on the command line
"""


def run_token_command(argv: Sequence[str]) -> int:
    """Run `nsqd token` with these arguments, and return its exit code."""
    guard_standard_streams()
    given = _parser().parse_args(argv)
    try:
        if given.command == "new":
            _new(given.tokens_file, given.name, given.scope, given.expires)
        elif given.command == "list":
            _list(given.tokens_file)
        else:
            for name in given.names:
                remove(given.tokens_file, name)
                sys.stderr.write(f"revoked {name}; its connections are closed within a second or two\n")
    except (TokenFileError, ScopeError, TokenError) as error:
        sys.stderr.write(f"nsqd token {given.command}: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nsqd token",
        description="Make, list and revoke the tokens by which clients are known.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    new = commands.add_parser(
        "new",
        help="make a token and print it: the only time that it can be seen",
        epilog="Scopes and examples: nsqd token --help",
    )
    shown = commands.add_parser(
        "list", help="list names, scopes and expiry; the tokens themselves are not known"
    )
    revoke = commands.add_parser("revoke", help="make tokens invalid, at once")
    for command in (new, shown, revoke):
        command.add_argument(
            "--tokens-file", required=True, metavar="PATH", help="file of the daemons' --tokens-file"
        )
    new.add_argument("--name", required=True, help="name of the token, for lists and logs")
    new.add_argument(
        "--scope", required=True, action="append", help="what it allows; may be given several times"
    )
    new.add_argument(
        "--expires",
        type=_expiry,
        default=math.inf,
        metavar="WHEN",
        help="after which time (90d, 12h) or when (2027-06-30, which is its first second in UTC); default: never",
    )
    revoke.add_argument("names", nargs="+", metavar="NAME", help="name of a token")
    return parser


def _new(path: str, name: str, scopes: Iterable[str], expires: float) -> None:
    secret = new_secret()
    token = Token(checked_name(name), digest_of(secret.encode()), Scopes.parse(scopes), time.time(), expires)
    add(path, token)
    sys.stdout.write(f"{secret}\n")
    sys.stderr.write(f"made the token {name} ({token.scopes}); it is not shown again\n")


def _list(path: str) -> None:
    file = TokenFile(path)
    file.load()
    now = time.time()
    rows = [("NAME", "SCOPES", "CREATED", "EXPIRES")]
    for token in file.tokens.by_name.values():
        expires = "never" if token.expires == math.inf else shown_time(token.expires)
        if token.is_expired(now):
            expires += " (has expired)"
        rows.append((token.name, str(token.scopes), shown_time(token.created), expires))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(f"{line.rstrip()}\n")


def _expiry(text: str) -> float:
    """Seconds since 1970. `argparse.ArgumentTypeError`."""
    when = _moment(text)
    if when is None or not time.time() < when <= _LAST:
        raise argparse.ArgumentTypeError(f"{text!r} is no time in the future such as 90d, 12h or 2027-06-30")
    return float(int(when))


def _moment(text: str) -> float | None:
    if days := _DAYS.fullmatch(text):
        return time.time() + int(days[1]) * _DAY_S
    try:
        return time.time() + parse_duration(text) / SECOND
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
